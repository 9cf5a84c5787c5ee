// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/berth-edge/berth/loader/bundle"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzOpen opens whatever it is given. That neither panics nor takes much memory, errors can be read, and what is
// listed has a name that parses, a digest that is valid, and a manifest that can be fetched and has that digest.
func FuzzOpen(f *testing.F) {
	small := []source{newSource(f, "amd64", []layer{newLayer(f, 1, 10)}, "a:1", "example.com/b:2")}
	for _, format := range formats {
		for _, packing := range packings[:3] {
			f.Add(packing.pack(f, pack(f, format.members(small)...)))
		}
	}
	for _, data := range []string{"", "hello world", strings.Repeat("\x00", 1024), "\x1f\x8b\x08", "\x28\xb5\x2f\xfd", "BZh9", "\xfd7zXZ\x00"} {
		f.Add([]byte(data))
	}
	manifest := ociManifest(small[0])
	desc := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, ocispec.MediaTypeImageManifest, digest.FromBytes(manifest), len(manifest))
	for _, index := range []string{`{}`, `[]`, `{"manifests":null}`, `{"manifests":[` + desc + `]}`, `{"manifests":[` + desc + `],"layers":[]}`, `{"manifests":[{"digest":"md5:x","size":-1}]}`} {
		f.Add(pack(f, ociVersion, text("index.json", index), blobMember(manifest), blobMember(small[0].config)))
	}
	for _, list := range []string{`{}`, `[]`, `null`, `[null]`, `[{"Config":"c","RepoTags":["X"],"Layers":["l"]}]`, `[{"Layers":{}}]`} {
		f.Add(pack(f, text("manifest.json", list), member{name: "c", data: small[0].config}, member{name: "l", data: []byte("l")}))
	}
	f.Add(append(rawHeader("l", 'S', 1<<30), make([]byte, 1024)...))
	f.Add(append(rawHeader("l", '2', 0), make([]byte, 1024)...))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		b, err := bundle.Open(t.Context(), path, nil)
		runtime.ReadMemStats(&after)
		// What was allocated at all is much more than there ever was at a time; a zstd window is allocated each pass.
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<30 {
			t.Errorf("got %d bytes allocated for a file of %d", got, len(data))
		}
		if err != nil {
			if text := err.Error(); !strings.HasPrefix(text, "open bundle "+path) || len(text) > 4000 {
				t.Errorf("got error %q", text)
			}
			return
		}
		defer b.Close()
		check(t, b, path)
	})
}

// check tries what must hold of every bundle that could be opened.
func check(t *testing.T, b *bundle.Bundle, path string) {
	for _, image := range b.Images() {
		if _, err := reference.ParseNormalizedNamed(image.Name); err != nil && image.Name != "" {
			t.Errorf("got name %q: %v", image.Name, err)
		}
		if err := image.Target.Digest.Validate(); err != nil {
			t.Error(err)
		}
		if err := b.Check(t.Context(), image.Target); err != nil {
			t.Error(err)
		}
		if _, err := images.Children(t.Context(), b, image.Target); err != nil {
			t.Error(err)
		}
	}
	seen := map[digest.Digest]bool{}
	err := b.Walk(t.Context(), func(dgst digest.Digest, size int64, r io.Reader) error {
		n, err := io.Copy(io.Discard, r)
		if n != size || !b.Has(dgst) || seen[dgst] {
			t.Errorf("got %d bytes of %s, want %d; had it before: %v", n, dgst, size, seen[dgst])
		}
		seen[dgst] = true
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if l := b.Listing(); l != nil {
		data, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		again, err := bundle.Open(t.Context(), path, remembered(t, l))
		if err != nil {
			t.Fatalf("open with listing %s: %v", data, err)
		}
		defer again.Close()
		if got, want := string(asJSON("", again.Images()).data), string(asJSON("", b.Images()).data); got != want {
			t.Errorf("got images %s with a listing, want %s", got, want)
		}
	}
}
