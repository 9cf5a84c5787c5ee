// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/status"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// artifact is what a registry stores and no runtime runs: a manifest with a config and one layer of the given types.
func artifact(t *testing.T, artifactType, configType, layerType string) *image.Image {
	t.Helper()
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType}
	var blobs []image.Layer
	add := func(mediaType, text string) ocispec.Descriptor {
		blob := image.Layer{Blob: []byte(text), Digest: digest.FromString(text)}
		blobs = append(blobs, blob)
		return ocispec.Descriptor{MediaType: mediaType, Digest: blob.Digest, Size: int64(len(text))}
	}
	manifest.Config = add(configType, "{}")
	manifest.Layers = append(manifest.Layers, add(layerType, "content of "+layerType))
	content, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	return &image.Image{Content: content, Layers: blobs, Descriptor: ocispec.Descriptor{
		MediaType: manifest.MediaType, Digest: digest.FromBytes(content), Size: int64(len(content)),
	}}
}

// schema1 is a manifest of Docker's first schema, which the registry of these tests does not store.
const schema1 = `{"schemaVersion":1,"name":"schema1","tag":"1","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}`

func serveSchema1(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
	w.Header().Set("Docker-Content-Digest", digest.FromString(schema1).String())
	w.Header().Set("Content-Length", strconv.Itoa(len(schema1)))
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(schema1))
	}
}

// TestOtherMediaTypes pulls what is no image for this machine, with stock and along a rule: what containerd says of it is
// said, as the same kind of error, and what it pulls all the same is pulled (B25, B26).
func TestOtherMediaTypes(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Middleware: registry.On("", "*/schema1/manifests/*", -1, serveSchema1)})
	const helm, wasm = "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "application/wasm"
	foreign := image.Index(image.Small("linux/s390x", 240), image.Small("windows/amd64", 241))
	for name, img := range map[string]*image.Image{
		"helm":     artifact(t, "", "application/vnd.cncf.helm.config.v1+json", helm),
		"wasm":     artifact(t, "", "application/vnd.wasm.config.v0+json", wasm),
		"artifact": artifact(t, "application/vnd.example.thing", ocispec.MediaTypeEmptyJSON, "application/vnd.example.data"),
		"foreign":  foreign,
	} {
		img.Push(t, r, name+":1")
		img.Push(t, r, "edge/registry.test/"+name+":1")
	}
	hosts := t.TempDir()
	registry.WriteHosts(t, hosts, "registry.test", r.Mirror(t))
	stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock), CRI: true, Config: criHosts(hosts)})
	ours := startNode(t, entry(t, r, "edge"), daemon.Options{CRI: true})
	for _, tc := range []struct{ name, cri, ctr, ours string }{
		{"schema1", "schema 1 image manifests are no longer supported", "schema 1 image manifests are no longer supported", ""},
		{"helm", "", "", ""},
		{"wasm", "", "", ""},
		{"artifact", "", "", ""},
		{"foreign", "no match for platform in manifest " + foreign.Digest.String(), "", fmt.Sprintf("no match for platform %s in manifest %s (available: linux/s390x, windows/amd64)",
			platforms.FormatAll(platforms.DefaultSpec()), foreign.Digest)},
	} {
		for _, c := range []struct {
			name, want  string
			stock, ours func(testing.TB, *daemon.Daemon, string) error
		}{{"CRI", tc.cri, pullCRI, pullCRI}, {"ctr", tc.ctr, pullCtrWith("--hosts-dir", hosts), pullCtr}} {
			t.Run(tc.name+" by "+c.name, func(t *testing.T) {
				ref := "registry.test/" + tc.name + ":1"
				want, got := c.stock(t, stock, ref), c.ours(t, ours.Daemon, ref)
				if c.want == "" {
					if want != nil || got != nil {
						t.Errorf("got %v, and %v of stock, want it pulled", got, want)
					}
					return
				}
				wantError(t, want, c.want)
				wantError(t, got, cmp.Or(tc.ours, c.want))
				if status.Code(got) != status.Code(want) {
					t.Errorf("got %v, want the code of stock's %v", got, want)
				}
			})
		}
	}
	for _, namespace := range []string{"k8s.io", "default"} {
		got, want := targets(t, ours.Daemon, namespace), targets(t, stock, namespace)
		if namespace == "k8s.io" {
			delete(want, "registry.test/foreign:1") // stock stores the name of what it cannot use
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: got images %v, want stock's %v", namespace, got, want)
		}
	}
}

// TestCheckAsNodes has check say of images of unusual kinds what nodes make of them, and copy and bundle take what check finds.
func TestCheckAsNodes(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Middleware: registry.On("", "*/schema1/manifests/*", -1, serveSchema1)})
	bare := func(img *image.Image) *image.Image { // an index of it does not name its platform
		img.Platform = nil
		return img
	}
	for name, img := range map[string]*image.Image{
		"bare":    image.Index(bare(image.Small("linux/amd64", 250))),
		"other":   image.Index(bare(image.Small("linux/s390x", 251))),
		"behind":  image.Index(bare(image.Small("linux/s390x", 252)), image.Small("linux/amd64", 253)),
		"nested":  image.Index(image.Index(image.Small("linux/s390x", 254), image.Small("linux/amd64", 255))),
		"foreign": image.Index(image.Index(image.Small("linux/s390x", 256))),
		"helm":    artifact(t, "", "application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
	} {
		img.Push(t, r, name+":1")
	}
	n := startNode(t, entry(t, r, ""), daemon.Options{CRI: true})
	dir := t.TempDir()
	write(t, dir+"/direct.toml", entry(t, r, ""))
	own := registry.Start(t, registry.Options{})
	write(t, dir+"/copy.toml", entry(t, r, "")+entry(t, own, "")+rule(r.Host(), own.Host()+"/m"))
	for name, want := range map[string]string{
		"bare": "", "helm": "", "other": "it is for linux/s390x, not for linux/amd64", "behind": "", "nested": "", "foreign": "it is for linux/s390x, not for linux/amd64",
		"schema1": "schema 1 image manifests are no longer supported",
	} {
		ref := r.Host() + "/" + name + ":1"
		if err := pullCRI(t, n.Daemon, ref); (err == nil) != (want == "") {
			t.Errorf("%s: got %v of the node, want %q", name, err, want)
		}
		for _, args := range [][]string{
			{"check", "--config", dir + "/direct.toml"},
			{"bundle", "--config", dir + "/direct.toml", "--out", dir + "/" + name + ".tar", "--platform", "linux/amd64"},
			{"copy", "--config", dir + "/copy.toml", "--platform", "linux/amd64"},
		} {
			out, problems, code := berth(t, append(args, ref)...)
			if (code == 0) != (want == "") || !strings.Contains(out, want) {
				t.Errorf("%s %s: got %d\n%s%s\nwant %q", args[0], name, code, out, problems, want)
			}
		}
	}
}
