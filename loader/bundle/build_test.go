// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// member is an entry of an archive that a test makes. The zero typeflag is a regular file.
type member struct {
	name     string
	data     []byte
	typeflag byte
	link     string
}

func text(name, data string) member { return member{name: name, data: []byte(data)} }

func asJSON(name string, v any) member {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return member{name: name, data: data}
}

// pack makes a tar of members.
func pack(tb testing.TB, members ...member) []byte {
	tb.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, m := range members {
		hdr := &tar.Header{Name: m.name, Typeflag: m.typeflag, Linkname: m.link, Size: int64(len(m.data)), Mode: 0o644}
		if hdr.Typeflag == 0 {
			hdr.Typeflag = tar.TypeReg
		}
		if err := tw.WriteHeader(hdr); err != nil {
			tb.Fatal(err)
		}
		if _, err := tw.Write(m.data); err != nil {
			tb.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func gzipped(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed) // under -race, compressing is most of what these tests do
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := z.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func zstded(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := z.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// write writes data to a file whose name says nothing.
func write(tb testing.TB, data []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "bundle")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		tb.Fatal(err)
	}
	return path
}

// writeDir writes members below a directory.
func writeDir(tb testing.TB, members ...member) string {
	tb.Helper()
	dir := tb.TempDir()
	for _, m := range members {
		path := filepath.Join(dir, m.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, m.data, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// layer is the content of one layer in both forms, and how a bundle holds it.
type layer struct {
	raw, packed []byte
}

// source is an image that bundles are made from.
type source struct {
	tags   []string
	layers []layer
	config []byte
}

// layers are those that were made, by seed and size: tests ask for the same ones again and again, and do not change them.
var layers sync.Map

func newLayer(tb testing.TB, seed uint64, size int) layer {
	tb.Helper()
	key := [2]uint64{seed, uint64(size)}
	if made, ok := layers.Load(key); ok {
		return made.(layer)
	}
	data := make([]byte, size)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := 0; i < len(data); i += 3 { // half of it compresses
		data[i] = byte(rng.Uint32())
	}
	raw := pack(tb, member{name: fmt.Sprintf("file-%d", seed), data: data})
	made := layer{raw: raw, packed: gzipped(tb, raw)}
	layers.Store(key, made)
	return made
}

func newSource(tb testing.TB, arch string, layers []layer, tags ...string) source {
	tb.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Author: strings.Join(tags, ",")}
	config.RootFS.Type = "layers"
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.raw))
	}
	return source{tags: tags, layers: layers, config: asJSON("", config).data}
}

// twoImages are two images that share a layer; one has two tags.
func twoImages(tb testing.TB) []source {
	tb.Helper()
	shared := newLayer(tb, 1, 300_000)
	return []source{
		newSource(tb, "amd64", []layer{shared, newLayer(tb, 2, 70_000)}, "registry.k8s.io/pause:3.10", "pause:latest"),
		newSource(tb, "arm64", []layer{shared, newLayer(tb, 3, 10), newLayer(tb, 4, 0)}, "example.com:5000/a/b:v1"),
	}
}

func hexOf(data []byte) string { return digest.FromBytes(data).Encoded() }

// legacy is what `docker save` wrote before version 25: a directory a layer, and symbolic links for those that repeat.
func legacy(images []source) []member {
	var members []member
	var list []map[string]any
	first := map[string]string{}
	for n, image := range images {
		var names []string
		for i, l := range image.layers {
			id := fmt.Sprintf("%064x", n*100+i+1)
			members = append(members, member{name: id + "/", typeflag: tar.TypeDir}, text(id+"/VERSION", "1.0"), text(id+"/json", `{"id":"`+id+`"}`))
			if at, ok := first[hexOf(l.raw)]; ok {
				members = append(members, member{name: id + "/layer.tar", typeflag: tar.TypeSymlink, link: "../" + at})
			} else {
				first[hexOf(l.raw)] = id + "/layer.tar"
				members = append(members, member{name: id + "/layer.tar", data: l.raw})
			}
			names = append(names, id+"/layer.tar")
		}
		config := hexOf(image.config) + ".json"
		members = append(members, member{name: config, data: image.config})
		list = append(list, map[string]any{"Config": config, "RepoTags": image.tags, "Layers": names})
	}
	return append(members, asJSON("manifest.json", list), text("repositories", "{}"))
}

// flat is a docker-save archive with its layers in files that name returns the name and content of.
func flat(images []source, config string, name func(layer) (string, []byte)) []member {
	var members []member
	var list []map[string]any
	seen := map[string]bool{}
	for _, image := range images {
		at := fmt.Sprintf(config, hexOf(image.config))
		members = append(members, member{name: at, data: image.config})
		var names []string
		for _, l := range image.layers {
			name, data := name(l)
			if !seen[name] {
				members = append(members, member{name: name, data: data})
			}
			seen[name] = true
			names = append(names, name)
		}
		list = append(list, map[string]any{"Config": at, "RepoTags": image.tags, "Layers": names})
	}
	return append(members, asJSON("manifest.json", list))
}

// crane names a compressed layer for its digest.
func crane(images []source) []member {
	return flat(images, "sha256:%s", func(l layer) (string, []byte) { return hexOf(l.packed) + ".tar.gz", l.packed })
}

// podman names an uncompressed layer for its diffID.
func podman(images []source) []member {
	return flat(images, "%s.json", func(l layer) (string, []byte) { return hexOf(l.raw) + ".tar", l.raw })
}

// unnamed has compressed layers whose names do not say what they hold, or even name the diffID.
func unnamed(images []source) []member {
	return flat(images, "%s.json", func(l layer) (string, []byte) { return hexOf(l.raw) + ".tar.gz", l.packed })
}

func blobMember(data []byte) member {
	return member{name: "blobs/sha256/" + hexOf(data), data: data}
}

// oci is an OCI layout: the first image in an index of two platforms, of which one is absent.
func oci(images []source) []member {
	members := []member{text("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)}
	seen := map[string]bool{}
	add := func(data []byte) {
		if !seen[hexOf(data)] {
			members = append(members, blobMember(data))
		}
		seen[hexOf(data)] = true
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for n, image := range images {
		data := ociManifest(image)
		add(data)
		add(image.config)
		for _, l := range image.layers {
			add(l.packed)
		}
		desc := descOf(ocispec.MediaTypeImageManifest, data)
		if n == 0 {
			absent := descOf(ocispec.MediaTypeImageManifest, []byte("absent"))
			absent.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
			desc.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
			both := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{absent, desc}}
			both.SchemaVersion = 2
			data = asJSON("", both).data
			add(data)
			desc = descOf(ocispec.MediaTypeImageIndex, data)
		}
		for i, tag := range image.tags {
			key := nameKey(i)
			d := desc
			d.Annotations = map[string]string{key: tag, "other": "x"}
			index.Manifests = append(index.Manifests, d)
		}
	}
	return append(members, asJSON("index.json", index))
}

// nameKey is the annotation that the i-th tag of an image is in.
func nameKey(i int) string {
	if i%2 == 0 {
		return images.AnnotationImageName
	}
	return ocispec.AnnotationRefName
}

func ociManifest(image source) []byte {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: descOf(ocispec.MediaTypeImageConfig, image.config)}
	m.SchemaVersion = 2
	for _, l := range image.layers {
		m.Layers = append(m.Layers, descOf(ocispec.MediaTypeImageLayerGzip, l.packed))
	}
	return asJSON("", m).data
}

func descOf(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// docker25 is what `docker save` writes since version 25: an OCI layout that has a manifest.json too.
func docker25(images []source) []member {
	members := oci(images)
	var list []map[string]any
	for _, image := range images {
		var names []string
		for _, l := range image.layers {
			names = append(names, "blobs/sha256/"+hexOf(l.packed))
		}
		list = append(list, map[string]any{"Config": "blobs/sha256/" + hexOf(image.config), "RepoTags": image.tags, "Layers": names})
	}
	return append(members, asJSON("manifest.json", list))
}
