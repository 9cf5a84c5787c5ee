// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/loader/bundle"
)

var ociVersion = text("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)

// indexOf is an index.json of one image, example/a:1.
func indexOf(desc ocispec.Descriptor) member {
	desc.Annotations = map[string]string{images.AnnotationImageName: "example/a:1"}
	return asJSON("index.json", ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{desc}})
}

// blobAs is the blob of data, and an index.json that names it as an image of that media type.
func blobAs(mediaType, data string) []member {
	return []member{ociVersion, indexOf(descOf(mediaType, []byte(data))), blobMember([]byte(data))}
}

// TestOCIRefused is about OCI archives and layouts that are wrong in one place.
func TestOCIRefused(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)}, "example/a:1")
	manifest := ociManifest(image)
	desc := descOf(ocispec.MediaTypeImageManifest, manifest)
	good := []member{ociVersion, indexOf(desc), blobMember(manifest), blobMember(image.config), blobMember(image.layers[0].packed)}
	changed := func(change func(*ocispec.Manifest)) []member {
		var m ocispec.Manifest
		if err := json.Unmarshal(manifest, &m); err != nil {
			t.Fatal(err)
		}
		change(&m)
		return append(blobAs(ocispec.MediaTypeImageManifest, string(asJSON("", m).data)), good[3:]...)
	}
	descChanged := func(change func(*ocispec.Descriptor)) []member {
		d := desc
		change(&d)
		return append([]member{ociVersion, indexOf(d)}, good[2:]...)
	}
	raw := func(index string) []member {
		return append([]member{ociVersion, text("index.json", index)}, good[2:]...)
	}
	const (
		isManifest = ocispec.MediaTypeImageManifest
		isIndex    = ocispec.MediaTypeImageIndex
	)
	entry := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, isManifest, desc.Digest, desc.Size)
	other := digest.FromString("other")
	for _, test := range []struct {
		name    string
		members []member
		want    string
	}{
		{"E15 broken oci-layout", append([]member{text("oci-layout", "{")}, good[1:]...), "oci-layout: invalid JSON at byte 1"},
		{"E15 broken index", raw(`{"manifests":[`), "index.json: invalid JSON at byte 14"},
		{"E15 empty index", raw(""), "index.json is empty"},
		{"E16 manifests are no list", raw(`{"manifests":{}}`), "index.json: manifests must be a list"},
		{"E17 large index", raw(strings.Repeat(" ", 20<<20+1)), "index.json is larger than 20 MiB"},
		{"E19 no images", raw(`{"manifests":[]}`), "index.json lists no image"},
		{"E19 no manifests", raw(`{}`), "index.json lists no image"},
		{"E18 name", raw(strings.Replace(`{"manifests":[`+entry+`]}`, `,"size"`, `,"annotations":{"org.opencontainers.image.ref.name":"a/UPPER:1"},"size"`, 1)), `index.json: image name "a/UPPER:1": invalid reference format`},
		{"SEC-31 name with another digest", raw(strings.Replace(`{"manifests":[`+entry+`]}`, `,"size"`, `,"annotations":{"io.containerd.image.name":"a@`+other.String()+`"},"size"`, 1)), "image a@" + other.String() + ": under this name the bundle has " + desc.Digest.String()},
		{"E25 version", append([]member{text("oci-layout", `{"imageLayoutVersion":"2.0.0"}`)}, good[1:]...), "unsupported OCI version 2.0.0"},
		{"E26 no index", append([]member{ociVersion}, good[2:]...), "missing index.json in OCI layout 1.0.0"},
		{"E27 no manifest", []member{ociVersion, good[1], good[3]}, "image example/a:1: manifest " + desc.Digest.String() + " is not in the bundle"},
		{"E27 no config", good[:3], "image example/a:1: config " + digest.FromBytes(image.config).String() + " of manifest " + desc.Digest.String() + " is not in the bundle"},
		{"E27 none of an index", blobAs(isIndex, `{"manifests":[`+entry+`]}`), "image example/a:1: none of the 1 manifests of its index sha256:"},
		{"E30 manifest", []member{ociVersion, good[1], {name: good[2].name, data: []byte(strings.Repeat(" ", len(manifest)))}}, "image example/a:1: blob " + desc.Digest.String() + " does not match its name: its content is sha256:"},
		{"E31 manifest with manifests", blobAs(isManifest, `{"config":{},"layers":[],"manifests":[]}`), "media-type: expected manifest but found index"},
		{"E31 manifest that says index", blobAs(isManifest, `{"mediaType":"`+isIndex+`"}`), "media-type: expected manifest but found index"},
		{"E31 index with layers", blobAs(isIndex, `{"manifests":[],"layers":[]}`), "media-type: expected index but found manifest"},
		{"E31 index with config", blobAs(isIndex, `{"manifests":[],"config":null}`), "media-type: expected index but found manifest"},
		{"E31 index.json with layers", raw(`{"manifests":[],"layers":[]}`), "index.json: media-type: expected index but found manifest"},
		{"E31 both", append(blobAs(isIndex, `{"manifests":[]}`)[:1:1], asJSON("index.json", ocispec.Index{Manifests: []ocispec.Descriptor{desc, descOf(isIndex, manifest)}}), good[2], good[3]), "media-type: expected index but found manifest"},
		{"E33 negative size", descChanged(func(d *ocispec.Descriptor) { d.Size = -1 }), "index.json: manifest 0: " + desc.Digest.String() + " has the negative size -1"},
		{"E33 no size", descChanged(func(d *ocispec.Descriptor) { d.Size = 0 }), "bytes in the bundle, want 0 as its descriptor says"},
		{"E33 negative size of a layer", changed(func(m *ocispec.Manifest) { m.Layers[0].Size = -7 }), "layer 0: sha256:"},
		{"E33 other size of a layer", changed(func(m *ocispec.Manifest) { m.Layers[0].Size++ }), "bytes in the bundle, want"},
		{"E33 other size of the config", changed(func(m *ocispec.Manifest) { m.Config.Size++ }), "bytes in the bundle, want"},
		{"E34 md5", descChanged(func(d *ocispec.Descriptor) { d.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }), `index.json: manifest 0: invalid digest "md5:`},
		{"E34 path", descChanged(func(d *ocispec.Descriptor) { d.Digest = "sha256:../../etc/passwd" }), `invalid digest "sha256:../../etc/passwd"`},
		{"E34 path of a layer", changed(func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../etc/passwd" }), `layer 0: invalid digest "sha256:../../etc/passwd"`},
		{"E34 no digest", descChanged(func(d *ocispec.Descriptor) { d.Digest = "" }), `invalid digest ""`},
		{"E35 manifests", raw(`{"manifests":[` + strings.Repeat(entry+",", 10_000) + entry + `]}`), "index.json: too many manifests (max 10000)"},
		{"E35 nesting", nested(10, good), "image example/a:1: indexes are nested more than 8 deep"},
		{"E35 nesting, the lowest first", allLevels(nested(9, good)), "indexes are nested more than 8 deep"},
		{"E35 circle", []member{ociVersion, indexOf(ocispec.Descriptor{MediaType: isIndex, Digest: other, Size: 200}), circle(other, 200)}, "blob " + other.String() + " does not match its name"},
		{"E36 layers", blobAs(isManifest, `{"config":`+entry+`,"layers":[`+strings.Repeat(entry+",", 10_000)+entry+`]}`), "too many layers (max 500)"},
		{"schema 1", blobAs(images.MediaTypeDockerSchema1Manifest, `{}`), "schema 1 manifests are not supported"},
		{"schema 1 that says otherwise", blobAs(isManifest, `{"fsLayers":[]}`), "schema 1 manifests are not supported"},
		{"no media type", blobAs("", `{}`), `image example/a:1: media type "" is neither a manifest nor an index`},
		{"features", raw(`{"manifests":[{"platform":{"os.features":[` + strings.Repeat(`"",`, 40) + `""]}}]}`), "too many features (max 32)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := refused(t, write(t, pack(t, test.members...)), test.want)
			if missing := strings.HasPrefix(test.name, "E27"); errdefs.IsNotFound(err) != missing {
				t.Errorf("got not found %v, want %v", errdefs.IsNotFound(err), missing)
			}
			refused(t, writeDir(t, test.members...), test.want)
		})
	}
	open(t, write(t, pack(t, good...)), nil)
	open(t, write(t, pack(t, nested(8, good)...)), nil)
}

// nested is the image of good in that many indexes.
func nested(depth int, good []member) []member {
	members := []member{ociVersion}
	members = append(members, good[2:]...)
	desc := descOf(ocispec.MediaTypeImageManifest, good[2].data)
	for range depth {
		data := asJSON("", ocispec.Index{Manifests: []ocispec.Descriptor{desc}}).data
		members = append(members, blobMember(data))
		desc = descOf(ocispec.MediaTypeImageIndex, data)
	}
	return append(members, indexOf(desc))
}

// allLevels lists each index of a nested bundle in index.json too, from the lowest up.
func allLevels(members []member) []member {
	var index ocispec.Index
	for _, m := range members[1 : len(members)-1] {
		if strings.HasPrefix(string(m.data), `{"schemaVersion":0,"manifests"`) {
			index.Manifests = append(index.Manifests, descOf(ocispec.MediaTypeImageIndex, m.data))
		}
	}
	return append(members[:len(members)-1:len(members)-1], asJSON("index.json", index))
}

// circle is an index that lists itself.
func circle(dgst digest.Digest, size int) member {
	data := fmt.Sprintf(`{"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, ocispec.MediaTypeImageIndex, dgst, size)
	return text("blobs/sha256/"+dgst.Encoded(), data+strings.Repeat(" ", size-len(data)))
}

// TestDiamond is about indexes that name one index many times over: each is read once.
func TestDiamond(t *testing.T) {
	image := newSource(t, "amd64", nil)
	data := ociManifest(image)
	members := []member{ociVersion, blobMember(image.config), blobMember(data)}
	desc := descOf(ocispec.MediaTypeImageManifest, data)
	for range 8 {
		var index ocispec.Index
		for range 1000 {
			index.Manifests = append(index.Manifests, desc)
		}
		data := asJSON("", index).data
		members = append(members, blobMember(data))
		desc = descOf(ocispec.MediaTypeImageIndex, data)
	}
	open(t, write(t, pack(t, append(members, indexOf(desc))...)), nil)
}

// TestNames is about the names that `ctr image import` takes from an OCI archive, and those that it makes up.
func TestNames(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)})
	manifest := ociManifest(image)
	for _, test := range []struct{ imageName, refName, want string }{
		{"example.com/a:1", "1", "example.com/a:1"},
		{"busybox:1", "", "busybox:1"}, // as it is written
		{"", "example.com/a:1", "example.com/a:1"},
		{"", "example.com/a@" + digest.FromBytes(manifest).String(), "example.com/a@" + digest.FromBytes(manifest).String()},
		{digest.FromBytes(image.config).String(), "", ""}, // as CRI records it by its id
		{"", "latest", ""},
		{"", "", ""},
		{"short", "example.com/a:1", ""},
	} {
		desc := descOf(ocispec.MediaTypeImageManifest, manifest)
		desc.Annotations = map[string]string{images.AnnotationImageName: test.imageName, ocispec.AnnotationRefName: test.refName}
		index := asJSON("index.json", ocispec.Index{Manifests: []ocispec.Descriptor{desc}})
		b := open(t, write(t, pack(t, ociVersion, index, blobMember(manifest), blobMember(image.config))), nil)
		if got := b.Images(); len(got) != 1 || got[0].Name != test.want {
			t.Errorf("image name %q, ref name %q: got %v, want the name %q", test.imageName, test.refName, got, test.want)
		}
	}
}

// TestNameless is about an image that has no name in one place and a name in another, as where all records of a node are exported.
func TestNameless(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)})
	manifest := ociManifest(image)
	var index ocispec.Index
	for _, name := range []string{digest.FromBytes(image.config).String(), "example.com/a:1", ""} {
		desc := descOf(ocispec.MediaTypeImageManifest, manifest)
		desc.Annotations = map[string]string{images.AnnotationImageName: name}
		index.Manifests = append(index.Manifests, desc)
	}
	b := open(t, write(t, pack(t, ociVersion, asJSON("index.json", index), blobMember(manifest), blobMember(image.config))), nil)
	if got := b.Images(); len(got) != 1 || got[0].Name != "example.com/a:1" {
		t.Errorf("got %v, want the image under its name alone", got)
	}
}

// TestNoImages is about what index.json lists beside images.
func TestNoImages(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)})
	manifest := ociManifest(image)
	desc := descOf(ocispec.MediaTypeImageManifest, manifest)
	subject, unknown := desc, desc
	subject.Annotations = map[string]string{images.AnnotationManifestSubject: desc.Digest.String()}
	unknown.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	artifact := descOf("application/vnd.example", []byte("x"))
	absent := descOf(ocispec.MediaTypeImageManifest, []byte("{"))
	absent.Platform = unknown.Platform
	absent.Annotations = map[string]string{images.AnnotationManifestSubject: desc.Digest.String(), bundle.ReferrerName: "a:sha256-1.sig"}
	index := asJSON("index.json", ocispec.Index{Manifests: []ocispec.Descriptor{artifact, subject, absent, desc, desc, unknown}})
	b := open(t, write(t, pack(t, ociVersion, index, blobMember(manifest), blobMember(image.config))), nil)
	if got := b.Images(); len(got) != 1 || got[0].Name != "" || got[0].Target.Digest != desc.Digest {
		t.Errorf("got %v, want one image without a name", got)
	}
	absent.Platform, absent.Annotations = nil, nil
	want := []bundle.Referrer{{Subject: desc.Digest, Target: desc}, {Subject: desc.Digest, Name: "a:sha256-1.sig", Target: absent}}
	if got := b.Referrers(); !reflect.DeepEqual(got, want) {
		t.Errorf("got referrers %v, want %v", got, want)
	}
}

// TestArtifacts is about what has a name and is no image: a chart, by its configuration, and a signature, by its layers.
func TestArtifacts(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)})
	manifest := func(config, layer string) ([]byte, ocispec.Descriptor) {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: descOf(config, image.config)}
		if layer != "" {
			m.Layers = []ocispec.Descriptor{descOf(layer, image.layers[0].packed)}
		}
		data := asJSON("", m).data
		return data, descOf(ocispec.MediaTypeImageManifest, data)
	}
	ours, oursDesc := manifest(ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip)
	empty, emptyDesc := manifest(ocispec.MediaTypeImageConfig, "")
	chart, chartDesc := manifest("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
	files, filesDesc := manifest("application/vnd.example.config.v1+json", ocispec.MediaTypeImageLayerGzip)
	signature, signatureDesc := manifest(ocispec.MediaTypeImageConfig, "application/vnd.dev.cosign.simplesigning.v1+json")
	for _, test := range []struct {
		name string
		of   []ocispec.Descriptor // an index of several
		want bool
	}{
		{"image", []ocispec.Descriptor{oursDesc}, false},
		{"image without layers", []ocispec.Descriptor{emptyDesc}, false},
		{"chart", []ocispec.Descriptor{chartDesc}, true},
		{"files in layers", []ocispec.Descriptor{filesDesc}, true},
		{"signature", []ocispec.Descriptor{signatureDesc}, true},
		{"image and signature", []ocispec.Descriptor{oursDesc, signatureDesc}, false},
		{"chart and image", []ocispec.Descriptor{chartDesc, oursDesc}, false},
		{"chart and signature", []ocispec.Descriptor{chartDesc, signatureDesc}, true},
	} {
		members := []member{ociVersion, blobMember(ours), blobMember(empty), blobMember(chart), blobMember(files), blobMember(signature), blobMember(image.config)}
		top := test.of[0]
		if len(test.of) > 1 {
			index := asJSON("", ocispec.Index{Manifests: test.of}).data
			members, top = append(members, blobMember(index)), descOf(ocispec.MediaTypeImageIndex, index)
		}
		got := open(t, write(t, pack(t, append(members, indexOf(top))...)), nil).Images()
		if len(got) != 1 || got[0].Artifact != test.want {
			t.Errorf("%s: got %+v, want one, an artifact: %t", test.name, got, test.want)
		}
	}
}

// TestPartialIndex is about a child of an index that is there without its config, as Docker saves other platforms.
func TestPartialIndex(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)})
	other := newSource(t, "arm64", []layer{newLayer(t, 2, 1)})
	both := asJSON("", ocispec.Index{Manifests: []ocispec.Descriptor{
		descOf(ocispec.MediaTypeImageManifest, ociManifest(other)), descOf(ocispec.MediaTypeImageManifest, ociManifest(image)),
	}}).data
	open(t, write(t, pack(t, ociVersion, indexOf(descOf(ocispec.MediaTypeImageIndex, both)), blobMember(both),
		blobMember(ociManifest(image)), blobMember(image.config), blobMember(ociManifest(other)))), nil)
}

// TestUnreadable is about a layout of which the disk does not give one manifest, as here what the kernel mounts there: that is no fault of
// an image, which would stay out until the bundle changes, but one of the machine's, which may pass.
func TestUnreadable(t *testing.T) {
	const unreadable = "/sys/class/net/lo/speed" // which loopback has none of
	info, err := os.Stat(unreadable)
	if err == nil {
		_, err = os.ReadFile(unreadable)
	}
	var machine syscall.Errno
	if info == nil || !errors.As(err, &machine) {
		t.Skipf("no file here cannot be read: %v", err)
	}
	good, bad := newSource(t, "amd64", nil), []byte("bad")
	descs := []ocispec.Descriptor{descOf(ocispec.MediaTypeImageManifest, ociManifest(good)), descOf(ocispec.MediaTypeImageManifest, bad)}
	descs[1].Size = info.Size()
	dir := writeDir(t, ociVersion, blobMember(good.config), blobMember(ociManifest(good)), blobMember(bad), asJSON("index.json", ocispec.Index{Manifests: descs}))
	at := filepath.Join(dir, "blobs/sha256", hexOf(bad))
	if err := unix.Mount(unreadable, at, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("nothing can be mounted here: %v", err)
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	if b, err := bundle.Open(t.Context(), dir, nil); !errors.Is(err, machine) {
		t.Errorf("got %v %v, want the whole bundle refused: %v", b, err, machine)
	}
}
