// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/berth-edge/berth/loader/bundle"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var formats = []struct {
	name    string
	members func([]source) []member
	format  string
	hashed  bool // whether a plain archive needs a Listing
}{
	{"docker legacy", legacy, "docker-archive", false},
	{"docker crane", crane, "docker-archive", false},
	{"docker crane, one image twice", func(s []source) []member { return crane(append(s, retagged(s[0], "example/again:2"))) }, "docker-archive", false},
	{"docker podman", podman, "docker-archive", false},
	{"docker unnamed layers", unnamed, "docker-archive", true},
	{"docker 25", docker25, "oci-archive", false},
	{"docker 25 without oci-layout", func(s []source) []member { return docker25(s)[1:] }, "docker-archive", false},
	{"oci", oci, "oci-archive", false},
}

// retagged is an image under other names.
func retagged(s source, tags ...string) source {
	s.tags = tags
	return s
}

var packings = []struct {
	name string
	pack func(testing.TB, []byte) []byte
}{
	{"plain", func(_ testing.TB, data []byte) []byte { return data }},
	{"gzip", gzipped},
	{"zstd", zstded},
	{"gzip of several members", func(tb testing.TB, data []byte) []byte {
		return append(gzipped(tb, data[:1000]), gzipped(tb, data[1000:])...)
	}},
	{"zstd of several frames", func(tb testing.TB, data []byte) []byte {
		return append(zstded(tb, data[:1000]), zstded(tb, data[1000:])...)
	}},
}

// TestConformance puts every format in every packing to the same test: its images, manifests and blobs are those that
// containerd's importer makes of the same bytes (E9: told by content, never by name).
func TestConformance(t *testing.T) {
	for _, format := range formats {
		raw := pack(t, format.members(twoImages(t))...)
		want := importStock(t, raw) // which syncs every blob
		for _, packing := range packings {
			t.Run(format.name+"/"+packing.name, func(t *testing.T) {
				path := write(t, packing.pack(t, raw))
				b := open(t, path, nil)
				conforms(t, b, want)
				if b.Format() != format.format {
					t.Errorf("got format %q, want %q", b.Format(), format.format)
				}
				compressed := packing.name != "plain"
				if b.Compressed() != compressed {
					t.Errorf("got compressed %v, want %v", b.Compressed(), compressed)
				}
				listing := b.Listing()
				if (listing != nil) != (compressed || format.hashed) {
					t.Errorf("got listing %v", listing)
				}
				again := open(t, path, remembered(t, listing))
				conforms(t, again, want)
				if (again.Listing() != nil) != (listing != nil) {
					t.Errorf("got listing %v of a bundle that was opened with one", again.Listing())
				}
			})
		}
	}
	t.Run("oci layout", func(t *testing.T) {
		members := oci(twoImages(t))
		b := open(t, writeDir(t, members...), nil)
		conforms(t, b, importStock(t, pack(t, members...)))
		if b.Format() != "oci-layout" || b.Compressed() || b.Listing() != nil {
			t.Errorf("got format %q, compressed %v, listing %v", b.Format(), b.Compressed(), b.Listing())
		}
	})
}

func open(tb testing.TB, path string, known *bundle.Listing) *bundle.Bundle {
	tb.Helper()
	b, err := bundle.Open(tb.Context(), path, known)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Close() })
	return b
}

// remembered is l as it comes back from where it was kept.
func remembered(tb testing.TB, l *bundle.Listing) *bundle.Listing {
	tb.Helper()
	data, err := json.Marshal(l)
	if err != nil {
		tb.Fatal(err)
	}
	var back *bundle.Listing
	if err := json.Unmarshal(data, &back); err != nil {
		tb.Fatal(err)
	}
	return back
}

// stock is what containerd made of an archive.
type stock struct {
	images []bundle.Image
	blobs  map[digest.Digest][]byte // all that the images refer to and that is there
}

// importStock imports an archive into an empty content store, with the code of `ctr image import`.
func importStock(tb testing.TB, archived []byte) stock {
	tb.Helper()
	store, err := local.NewStore(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	ctx := tb.Context()
	desc, err := archive.ImportIndex(ctx, store, bytes.NewReader(archived))
	if err != nil {
		tb.Fatal(err)
	}
	var index ocispec.Index
	data, err := content.ReadBlob(ctx, store, desc)
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(data, &index); err != nil {
		tb.Fatal(err)
	}
	got := stock{blobs: map[digest.Digest][]byte{}}
	var visit func(ocispec.Descriptor)
	visit = func(desc ocispec.Descriptor) {
		data, err := content.ReadBlob(ctx, store, desc)
		if err != nil {
			return
		}
		got.blobs[desc.Digest] = data
		children, err := images.Children(ctx, store, desc)
		if err != nil {
			tb.Fatal(err)
		}
		for _, child := range children {
			visit(child)
		}
	}
	for _, m := range index.Manifests {
		name := m.Annotations[images.AnnotationImageName]
		if name == "" {
			name = archive.AddRefPrefix("none")(m.Annotations[ocispec.AnnotationRefName])
		}
		name, _ = strings.CutPrefix(name, "none:")
		m.Annotations = nil
		got.images = append(got.images, bundle.Image{Name: name, Target: m})
		visit(m)
	}
	return got
}

func conforms(t *testing.T, b *bundle.Bundle, want stock) {
	t.Helper()
	ctx := t.Context()
	if got, want := asJSON("", b.Images()).data, asJSON("", want.images).data; !bytes.Equal(got, want) {
		t.Errorf("got images\n%s\nwant\n%s", got, want)
	}
	for dgst, data := range want.blobs {
		desc := ocispec.Descriptor{Digest: dgst, Size: int64(len(data))}
		if !b.Has(dgst) {
			t.Errorf("got no %s", dgst)
			continue
		}
		if got := fetch(t, b, desc); !bytes.Equal(got, data) {
			t.Errorf("fetch %s: got %d bytes, want %d", dgst, len(got), len(data))
		}
		if got, err := content.ReadBlob(ctx, b, desc); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %s: got %d bytes and error %v, want %d", dgst, len(got), err, len(data))
		}
		if err := b.Check(ctx, desc); err != nil {
			t.Error(err)
		}
		readsAt(t, b, desc, data)
		seeks(t, b, desc, data)
	}
	walked := map[digest.Digest]bool{}
	err := b.Walk(ctx, func(dgst digest.Digest, size int64, r io.Reader) error {
		data, err := io.ReadAll(r)
		if int64(len(data)) != size || digest.FromBytes(data) != dgst || walked[dgst] {
			t.Errorf("walk %s: got %d bytes with digest %s, seen before %v; want %d", dgst, len(data), digest.FromBytes(data), walked[dgst], size)
		}
		walked[dgst] = true
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for dgst := range want.blobs {
		if !walked[dgst] {
			t.Errorf("walk: got no %s", dgst)
		}
	}
	for _, image := range b.Images() {
		here := platforms.Any(ocispec.Platform{OS: "linux", Architecture: "amd64"}, ocispec.Platform{OS: "linux", Architecture: "arm64"})
		if _, err := images.Manifest(ctx, b, image.Target, here); err != nil {
			t.Errorf("manifest of %s: %v", image.Name, err)
		}
		if p, err := images.Platforms(ctx, b, image.Target); err != nil || len(p) == 0 {
			t.Errorf("platforms of %s: got %v and error %v", image.Name, p, err)
		}
	}
	if b.Changed() {
		t.Error("got changed, want not")
	}
}

func fetch(tb testing.TB, b *bundle.Bundle, desc ocispec.Descriptor) []byte {
	tb.Helper()
	r, err := b.Fetch(context.WithoutCancel(tb.Context()), desc)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// readsAt reads a blob in pieces, from its end to its start.
func readsAt(tb testing.TB, b *bundle.Bundle, desc ocispec.Descriptor, want []byte) {
	tb.Helper()
	r, err := b.ReaderAt(tb.Context(), desc)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	if r.Size() != int64(len(want)) {
		tb.Errorf("got size %d of %s, want %d", r.Size(), desc.Digest, len(want))
	}
	const step = 100_000
	for off := (len(want) - 1) / step * step; off >= 0; off -= step {
		got := make([]byte, step)
		n, err := r.ReadAt(got, int64(off))
		if piece := want[off:min(off+step, len(want))]; !bytes.Equal(got[:n], piece) {
			tb.Errorf("read %s at %d: got %d bytes and error %v, want %d", desc.Digest, off, n, err, len(piece))
		}
		if atEnd := off+step > len(want); errors.Is(err, io.EOF) != atEnd {
			tb.Errorf("read %s at %d: got error %v, want the end %v", desc.Digest, off, err, atEnd)
		}
	}
}

// seeks reads the second half of a blob, where readers seek.
func seeks(tb testing.TB, b *bundle.Bundle, desc ocispec.Descriptor, want []byte) {
	tb.Helper()
	r, err := b.Fetch(tb.Context(), desc)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	s, ok := r.(io.ReadSeeker)
	_, at := r.(io.ReaderAt)
	if !ok || !at {
		if !b.Compressed() {
			tb.Errorf("got a %T from a plain bundle, want one that seeks", r)
		}
		return
	}
	half := len(want) / 2
	if _, err := s.Seek(int64(half), io.SeekStart); err != nil {
		tb.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, want[half:]) {
		tb.Errorf("seek in %s: got %d bytes and error %v, want %d", desc.Digest, len(got), err, len(want)-half)
	}
}
