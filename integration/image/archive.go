// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Named is an image and the names that an archive gives it.
type Named struct {
	*Image
	Names []string
}

// Name is an image under one or more names.
func (img *Image) Name(names ...string) Named { return Named{img, names} }

// Entry is a member of an archive. With a link it is a symbolic link.
type Entry struct {
	Name string
	Data []byte
	Link string
}

// Blobs are the blobs of an image by their digests: of an index, those of every platform.
func (img *Image) Blobs() map[digest.Digest][]byte {
	blobs := map[digest.Digest][]byte{img.Digest: img.Content}
	for _, one := range img.Images {
		for d, data := range one.Blobs() {
			blobs[d] = data
		}
	}
	if img.config != nil {
		blobs[img.ConfigDigest] = img.config
	}
	for _, l := range img.Layers {
		blobs[l.Digest] = l.Blob
	}
	return blobs
}

// OCI returns the members of an OCI archive, which are also the files of an OCI layout. Only the given platforms of an
// index are in it; none given, all of them.
func OCI(images []Named, platforms ...string) []Entry {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	blobs := map[digest.Digest][]byte{}
	for _, n := range images {
		for _, name := range n.Names {
			desc := n.Descriptor
			desc.Annotations = map[string]string{"io.containerd.image.name": name}
			index.Manifests = append(index.Manifests, desc)
		}
		in := []*Image{n.Image}
		if n.Images != nil && len(platforms) > 0 {
			in = nil
			blobs[n.Digest] = n.Content
			for _, p := range platforms {
				in = append(in, n.For(p))
			}
		}
		for _, img := range in {
			for d, data := range img.Blobs() {
				blobs[d] = data
			}
		}
	}
	entries := []Entry{
		{Name: ocispec.ImageLayoutFile, Data: encode(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})},
		{Name: ocispec.ImageIndexFile, Data: encode(index)},
	}
	for _, d := range sorted(blobs) {
		entries = append(entries, Entry{Name: "blobs/sha256/" + d.Encoded(), Data: blobs[d]})
	}
	return entries
}

func sorted(blobs map[digest.Digest][]byte) []digest.Digest {
	var all []digest.Digest
	for d := range blobs {
		all = append(all, d)
	}
	slices.Sort(all)
	return all
}

// DockerSave returns the members of an archive as docker save wrote them before version 25: layers are not compressed, and
// one that an earlier image has is a symbolic link to it.
func DockerSave(images []Named) []Entry {
	var entries []Entry
	var list []map[string]any
	at := map[digest.Digest]string{}
	for _, n := range images {
		config := n.ConfigDigest.Encoded() + ".json"
		var layers []string
		for i, l := range n.Layers {
			dir := digest.FromString(n.ConfigDigest.String() + string(rune('a'+i))).Encoded()
			name := dir + "/layer.tar"
			layers = append(layers, name)
			if first, ok := at[l.DiffID]; ok {
				entries = append(entries, Entry{Name: name, Link: "../" + first})
				continue
			}
			at[l.DiffID] = name
			entries = append(entries, Entry{Name: dir + "/VERSION", Data: []byte("1.0")}, Entry{Name: dir + "/json", Data: []byte("{}")}, Entry{Name: name, Data: l.tar()})
		}
		entries = append(entries, Entry{Name: config, Data: n.config})
		list = append(list, map[string]any{"Config": config, "RepoTags": n.Names, "Layers": layers})
	}
	return append(entries, Entry{Name: "manifest.json", Data: encode(list)}, Entry{Name: "repositories", Data: []byte("{}")})
}

// Crane returns the members of a docker-save archive as crane writes it: layers keep their compression, and their names say
// their digests.
func Crane(images []Named) []Entry {
	var entries []Entry
	var list []map[string]any
	seen := map[string]bool{}
	for _, n := range images {
		var layers []string
		for _, l := range n.Layers {
			name := l.Digest.Encoded() + ".tar.gz"
			layers = append(layers, name)
			if !seen[name] {
				seen[name] = true
				entries = append(entries, Entry{Name: name, Data: l.Blob})
			}
		}
		entries = append(entries, Entry{Name: n.ConfigDigest.String(), Data: n.config})
		list = append(list, map[string]any{"Config": n.ConfigDigest.String(), "RepoTags": n.Names, "Layers": layers})
	}
	return append(entries, Entry{Name: "manifest.json", Data: encode(list)})
}

// Docker25 returns the members of an archive as docker save writes them since version 25: an OCI layout, and a manifest.json
// beside it.
func Docker25(images []Named) []Entry {
	entries := OCI(images)
	var list []map[string]any
	for _, n := range images {
		var layers []string
		for _, l := range n.Layers {
			layers = append(layers, "blobs/sha256/"+l.Digest.Encoded())
		}
		list = append(list, map[string]any{"Config": "blobs/sha256/" + n.ConfigDigest.Encoded(), "RepoTags": n.Names, "Layers": layers})
	}
	return append(entries, Entry{Name: "manifest.json", Data: encode(list)})
}

// tar returns the layer without its compression.
func (l Layer) tar() []byte {
	r, err := gzip.NewReader(bytes.NewReader(l.Blob))
	must(err)
	data, err := io.ReadAll(r)
	must(err)
	return data
}

// Tar makes an archive of its members.
func Tar(entries []Entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.Name, Mode: 0o644, Size: int64(len(e.Data)), ModTime: time.Unix(1700000000, 0), Typeflag: tar.TypeReg}
		if e.Link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, e.Link, 0
		}
		must(w.WriteHeader(h))
		_, err := w.Write(e.Data)
		must(err)
	}
	must(w.Close())
	return b.Bytes()
}

// Gzip and Zstd compress an archive as a whole.
func Gzip(data []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	_, err := w.Write(data)
	must(err)
	must(w.Close())
	return b.Bytes()
}

// Zstd compresses an archive as a whole.
func Zstd(data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	must(err)
	return w.EncodeAll(data, nil)
}

// WriteFile writes a bundle that only root can write to.
func WriteFile(tb testing.TB, path string, data []byte) string {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		tb.Fatal(err)
	}
	return path
}

// WriteLayout writes an OCI layout directory.
func WriteLayout(tb testing.TB, dir string, entries []Entry) string {
	tb.Helper()
	for _, e := range entries {
		WriteFile(tb, filepath.Join(dir, e.Name), e.Data)
	}
	return dir
}
