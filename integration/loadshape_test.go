// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestLoadShapes loads images of shapes that tools make now and then, and compares with what stock's `ctr image import` makes of
// them.
func TestLoadShapes(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{CRI: true})
	stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock)})
	archives := map[string][]byte{}

	// What an index may hold beside an image.
	img := oneLayer(360)
	nothing := []byte("{}")
	empty := descriptorOf("application/vnd.oci.empty.v1+json", nothing)
	about := encoded(t, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/spdx+json", Config: empty, Layers: []ocispec.Descriptor{empty}})
	plain := img.Descriptor
	plain.Platform = nil
	artifact := descriptorOf(ocispec.MediaTypeImageManifest, about)
	attestation := artifact
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": img.Digest.String()}
	for name, children := range map[string][]ocispec.Descriptor{
		"artifact": {plain, artifact}, "attestation": {attestation, img.Descriptor},
	} {
		index := encoded(t, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: children})
		blobs := img.Blobs()
		blobs[artifact.Digest], blobs[empty.Digest] = about, nothing
		archives[name] = namedArchive(t, "registry.k8s.io/"+name+":1", descriptorOf(ocispec.MediaTypeImageIndex, index), index, blobs)
	}

	// What a layer may be.
	const foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	for i, layer := range []struct {
		name, mediaType string
		pack            func([]byte) []byte
	}{
		{"uncompressed", ocispec.MediaTypeImageLayer, nil},
		{"zstd", ocispec.MediaTypeImageLayerZstd, image.Zstd},
		{"foreign", foreign, image.Gzip},
		{"of-no-bytes", ocispec.MediaTypeImageLayer, func([]byte) []byte { return nil }},
	} {
		raw := image.Tar([]image.Entry{{Name: "file", Data: []byte{byte(i)}}})
		data := raw
		if layer.pack != nil {
			data = layer.pack(raw)
		}
		if data == nil {
			raw = nil
		}
		desc := descriptorOf(layer.mediaType, data)
		if layer.mediaType == foreign {
			desc.URLs = []string{"http://127.0.0.1:9/layer"}
		}
		var config ocispec.Image
		config.OS, config.Architecture = "linux", "amd64"
		config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(raw)}}
		text := encoded(t, config)
		manifest := encoded(t, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: descriptorOf(ocispec.MediaTypeImageConfig, text), Layers: []ocispec.Descriptor{desc}})
		blobs := map[digest.Digest][]byte{digest.FromBytes(text): text, desc.Digest: data}
		archives[layer.name] = namedArchive(t, "registry.k8s.io/"+layer.name+":1", descriptorOf(ocispec.MediaTypeImageManifest, manifest), manifest, blobs)
		archives[layer.name+"-save"] = image.Tar([]image.Entry{
			{Name: "config.json", Data: text},
			{Name: "layer.tar", Data: data},
			{Name: "manifest.json", Data: encoded(t, []map[string]any{{"Config": "config.json", "RepoTags": []string{"registry.k8s.io/" + layer.name + "-save:1"}, "Layers": []string{"layer.tar"}}})},
		})
	}

	// What an image alone may be for.
	variant := image.New(image.Config{Platform: "linux/amd64/v2", Layers: img.Layers})
	blobs := variant.Blobs()
	delete(blobs, variant.Digest)
	archives["variant"] = namedArchive(t, "registry.k8s.io/variant:1", descriptorOf(variant.MediaType, variant.Content), variant.Content, blobs)

	for name, archive := range archives {
		l.put(t, name+".tar", archive)
	}
	l.start(t)
	got := targets(t, l.Daemon, "k8s.io")
	for name := range archives {
		stock.Ctr(t, "-n", name, "image", "import", filepath.Join(l.folder, name+".tar"))
		ref := "registry.k8s.io/" + name + ":1"
		if want := targets(t, stock, name)[ref]; got[ref] != want || want == "" {
			t.Errorf("%s: got %q, stock %q", name, got[ref], want)
		}
		l.waitPinned(t, ref, true)
	}
	l.restart(t)
	if out, good := l.status(t); !good {
		t.Errorf("got status\n%s", out)
	}
}

// namedArchive is an OCI archive of one manifest or index under a name.
func namedArchive(t *testing.T, name string, desc ocispec.Descriptor, content []byte, blobs map[digest.Digest][]byte) []byte {
	t.Helper()
	desc.Annotations = map[string]string{"io.containerd.image.name": name}
	entries := []image.Entry{
		{Name: ocispec.ImageLayoutFile, Data: encoded(t, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})},
		{Name: ocispec.ImageIndexFile, Data: encoded(t, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{desc}})},
		{Name: "blobs/sha256/" + desc.Digest.Encoded(), Data: content},
	}
	for d, data := range blobs {
		entries = append(entries, image.Entry{Name: "blobs/sha256/" + d.Encoded(), Data: data})
	}
	return image.Tar(entries)
}

func descriptorOf(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestLoadExported loads what `ctr image export` makes of everything that a node of Kubernetes has, under each name that it has
// there: the same records, and no others.
func TestLoadExported(t *testing.T) {
	daemon.RequireRoot(t)
	from := newLoading(t, "", daemon.Options{CRI: true})
	from.bundle(t, "a.tar", oneLayer(361, "registry.k8s.io/a:1", "quay.io/b:2"))
	from.put(t, "multi.tar", image.Tar(image.OCI([]image.Named{image.Multi(362).Name("registry.k8s.io/multi:1")}, "linux/amd64")))
	from.start(t)
	names := strings.Fields(from.Ctr(t, "-n", "k8s.io", "image", "ls", "-q"))
	to := newLoading(t, "", daemon.Options{CRI: true})
	from.Ctr(t, append([]string{"-n", "k8s.io", "image", "export", filepath.Join(to.folder, "all.tar")}, names...)...)
	to.start(t)
	got := strings.Fields(to.Ctr(t, "-n", "k8s.io", "image", "ls", "-q"))
	slices.Sort(names)
	slices.Sort(got)
	if !slices.Equal(got, names) {
		t.Errorf("got images %q, want %q", got, names)
	}
	if out, good := to.status(t); !good {
		t.Errorf("got status\n%s", out)
	}
}

// TestLoadArtifacts loads a layout as cosign and hauler write them: a chart and a signature lie beside an image, with a name, with
// that of the image, and without one. They are no images, and no fault.
func TestLoadArtifacts(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{CRI: true})
	img := oneLayer(363)
	blobs := img.Blobs()
	artifact := func(config, layer, content, name string) ocispec.Descriptor {
		text, data := []byte(`{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":["`+digest.FromString(content)+`"]}}`), []byte(content)
		manifest := encoded(t, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: descriptorOf(config, text), Layers: []ocispec.Descriptor{descriptorOf(layer, data)}})
		for _, blob := range [][]byte{text, data, manifest} {
			blobs[digest.FromBytes(blob)] = blob
		}
		desc := descriptorOf(ocispec.MediaTypeImageManifest, manifest)
		if name != "" {
			desc.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
		}
		return desc
	}
	named := img.Descriptor
	named.Annotations = map[string]string{"org.opencontainers.image.ref.name": "registry.k8s.io/signed:1"}
	chart := artifact("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "chart", "registry.k8s.io/charts/a:1")
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
		chart, named,
		artifact(ocispec.MediaTypeImageConfig, "application/vnd.dev.cosign.simplesigning.v1+json", "signature", "registry.k8s.io/signed:1"),
		artifact(ocispec.MediaTypeImageConfig, "application/vnd.dsse.envelope.v1+json", "attestation", ""),
	}}
	entries := []image.Entry{
		{Name: ocispec.ImageLayoutFile, Data: encoded(t, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})},
		{Name: ocispec.ImageIndexFile, Data: encoded(t, index)},
	}
	for d, data := range blobs {
		entries = append(entries, image.Entry{Name: "blobs/sha256/" + d.Encoded(), Data: data})
	}
	image.WriteLayout(t, filepath.Join(l.folder, "store"), entries)
	l.put(t, "store.tar.gz", image.Gzip(image.Tar(entries)))
	for range 2 {
		l.start(t)
		out, good := l.status(t)
		if got := stateOf(out, chart.Digest.String()); !good || got != "no image" {
			t.Errorf("got state %q of the chart, want \"no image\" and no fault:\n%s", got, out)
		}
		l.wantLoaded(t, img.Name("registry.k8s.io/signed:1"))
		l.waitPinned(t, "registry.k8s.io/signed:1", true)
		if got := targets(t, l.Daemon, "k8s.io")["registry.k8s.io/charts/a:1"]; got != "" {
			t.Errorf("got the chart recorded as %s", got)
		}
		l.Stop(t)
	}
}
