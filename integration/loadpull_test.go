// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestLoadThenPull pulls bundled images through every client and by every form of reference, while registries record what
// they are asked. The image of the bundle is an index; other platforms than this machine's are not in it.
func TestLoadThenPull(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	index := image.Multi(200)
	bundled := index.Name("registry.k8s.io/team/a:1")
	machine := index.For("linux/amd64")
	entries := image.OCI([]image.Named{bundled}, "linux/amd64")
	for _, config := range []struct{ name, text string }{
		{"configured", entry(t, r, "edge")},
		{"not configured", ""},
	} {
		l := newLoading(t, config.text, daemon.Options{CRI: true, Hosts: map[string]string{"registry.k8s.io": "127.0.0.1"}})
		path := l.put(t, "bundle.tar", image.Tar(entries))
		l.start(t)
		for _, c := range clients {
			for _, form := range []struct {
				name, suffix string
				target       *image.Image
			}{
				{"tag", ":1", index}, {"digest", "@" + index.Digest.String(), index}, {"tag and digest", ":1@" + index.Digest.String(), index},
				{"digest of the manifest", "@" + machine.Digest.String(), machine},
			} {
				t.Run(config.name+" "+c.name+" by "+form.name, func(t *testing.T) {
					ref := "registry.k8s.io/team/a" + form.suffix
					if err := c.pull(t, l.Daemon, ref); err != nil {
						t.Fatal(err)
					}
					stored := ref
					if c.name == "CRI" {
						stored = strings.Replace(ref, ":1@", "@", 1)
					}
					if got := targets(t, l.Daemon, c.namespace)[stored]; got != form.target.Digest {
						t.Errorf("got target %q, want %s", got, form.target.Digest)
					}
					if err := machine.Compare(l.Rootfs(t, c.namespace, stored)); err != nil {
						t.Error(err)
					}
				})
			}
		}
		// Gone as a whole, it comes back from the bundle.
		t.Run(config.name+" after it was removed", func(t *testing.T) {
			images, _ := l.CRI(t)
			if _, err := images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "registry.k8s.io/team/a:1"}}); err != nil {
				t.Fatal(err)
			}
			for _, ns := range []string{"default", "go"} {
				for name := range targets(t, l.Daemon, ns) {
					l.Ctr(t, "-n", ns, "images", "rm", "--sync", name)
				}
			}
			if n := len(l.blobs(t)); n != 0 {
				t.Errorf("got %d blobs, want the content gone", n)
			}
			if err := pullCRI(t, l.Daemon, "registry.k8s.io/team/a:1"); err != nil {
				t.Fatal(err)
			}
			l.waitPinned(t, "registry.k8s.io/team/a:1", true)
			if err := machine.Compare(l.Rootfs(t, "k8s.io", "registry.k8s.io/team/a:1")); err != nil {
				t.Error(err)
			}
		})
		if got := r.Log.Requests(); len(got) != 0 {
			t.Errorf("%s: got requests %v, want none", config.name, got)
		}
		route := explain(t, l.ConfigFile(), "registry.k8s.io/team/a:1")
		if first := route.Targets[0]; first.Kind != "bundle" || first.Registry != path || first.Credential != "none" || first.TLS != "" || first.Pull != "registry.k8s.io/team/a:1" {
			t.Errorf("explain: got first target %+v, want the bundle", first)
		}
		if len(route.Targets) != 2 {
			t.Errorf("explain: got targets %+v, want the bundle and where the image is else", route.Targets)
		}
		text, _, _ := berth(t, "explain", "--config", l.ConfigFile(), "registry.k8s.io/team/a:1")
		if !strings.Contains(text, "  1.  bundle") || !strings.Contains(text, path) || !strings.Contains(text, "  2.  ") {
			t.Errorf("explain: got\n%s", text)
		}
	}
}

// TestLoadThenPullSpelled pulls bundled images whose names, or aliases, are written in other ways than references are normalised to.
// Each is recorded by its name as it is written, where CRI looks for it, and pulled from the bundle by any spelling.
func TestLoadThenPullSpelled(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	bundled := oneLayer(220, "harbor.example.com:443/app:1", "K8S.gcr.io/app:3.6", "registry-1.docker.io/library/app:1")
	l := newLoading(t, entry(t, r, "edge"), daemon.Options{CRI: true},
		"[plugins.\""+loaderURI+"\".aliases]\n\"Alias.example.com:443/app:1\" = \"k8s.gcr.io/app:3.6\"\n\"of.alias/app:1\" = \"alias.example.com/app:1\"")
	path := l.bundle(t, "bundle.tar", bundled)
	l.start(t)
	names := append(bundled.Names, "Alias.example.com:443/app:1", "of.alias/app:1")
	loaded := targets(t, l.Daemon, "k8s.io")
	for _, name := range names {
		if loaded[name] != bundled.Digest {
			t.Errorf("%s: got target %q, want it loaded", name, loaded[name])
		}
		if got := l.criStatus(t, name); got == nil || got.Id != bundled.ConfigDigest.String() || !got.Pinned {
			t.Errorf("%s: CRI has %v, want the image, pinned", name, got)
		}
	}
	for _, ref := range append(names, "harbor.example.com/app:1", "k8s.gcr.io/app:3.6", "docker.io/library/app:1", "alias.example.com/app:1",
		"harbor.example.com/app@"+bundled.Digest.String()) {
		if err := pullCRI(t, l.Daemon, ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		if route := explain(t, l.ConfigFile(), ref); route.Targets[0].Kind != "bundle" || route.Targets[0].Registry != path {
			t.Errorf("explain %s: got first target %+v, want the bundle", ref, route.Targets[0])
		}
	}
	if got := r.Log.Requests(); len(got) != 0 {
		t.Errorf("got requests %v, want none", got)
	}
}

// TestLoadAndRules has rules that keep a pull from a bundle: a registry that is to win, a prefix that is denied, and rules
// that cannot be understood.
func TestLoadAndRules(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	a, other := oneLayer(210, "registry.k8s.io/a:1", "quay.io/denied/a:1", "ghcr.io/a:1"), oneLayer(211)
	other.Push(t, r, "edge/a:1")
	a.Push(t, r, "edge/unmatched:1")
	l := newLoading(t, entry(t, r, "edge")+rule("registry.k8s.io", r.Host()+"/edge")+"bundle = false\n"+
		"[[rules]]\nfrom = \"quay.io/denied\"\ndeny = true\n", daemon.Options{CRI: true})
	l.bundle(t, "bundle.tar", a)
	l.start(t)

	if err := pullCRI(t, l.Daemon, "registry.k8s.io/a:1"); err != nil {
		t.Fatal(err)
	}
	if len(r.Log.Match("HEAD", "/v2/edge/a/manifests/1")) == 0 {
		t.Errorf("got requests\n%s\nwant the registry asked", r.Log.Lines())
	}
	if got := l.criStatus(t, "registry.k8s.io/a:1"); got == nil || got.Id != other.ConfigDigest.String() || got.Pinned {
		t.Errorf("got %v, want the registry's image, which no bundle pins", got)
	}
	wantError(t, pullCRI(t, l.Daemon, "quay.io/denied/a:1"), "denied by rule")
	if route := explain(t, l.ConfigFile(), "quay.io/denied/a:1"); len(route.Targets) != 0 || route.Error == "" {
		t.Errorf("explain: got %+v of what is denied", route)
	}
	if route := explain(t, l.ConfigFile(), "registry.k8s.io/a:1"); len(route.Targets) != 1 || route.Targets[0].Kind != "registry" {
		t.Errorf("explain: got %+v with bundle = false", route)
	}
	l.Stop(t)
	l.configure(t, "registry.toml", "nonsense = true\n")
	l.start(t)
	wantError(t, pullCRI(t, l.Daemon, "ghcr.io/a:1"), "Berth's configuration cannot be used", "nonsense")
	if l.criStatus(t, "ghcr.io/a:1") == nil {
		t.Error("got no image of the bundle, want it loaded whatever the rules are")
	}
}

// slowly compresses an archive behind a member of zeros, which takes a while to get past.
func slowly(t *testing.T, archive []byte) []byte {
	t.Helper()
	const size = 400 << 20
	var out bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	w := tar.NewWriter(zip)
	err := w.WriteHeader(&tar.Header{Name: "ballast", Mode: 0o644, Size: size})
	zeros := make([]byte, 1<<20)
	for range size / len(zeros) {
		_, werr := w.Write(zeros)
		err = errors.Join(err, werr)
	}
	err = errors.Join(err, w.Flush())
	_, werr := zip.Write(archive)
	if err := errors.Join(err, werr, zip.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestPullOtherPlatform pulls an image for a platform that its bundle was made without: from the registry, or not at all.
func TestPullOtherPlatform(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	multi := image.Multi(363)
	multi.Push(t, r, "edge/multi:1")
	l := newLoading(t, entry(t, r, "edge")+rule("registry.k8s.io", r.Host()+"/edge"), daemon.Options{})
	l.put(t, "multi.tar", image.Tar(image.OCI([]image.Named{multi.Name("registry.k8s.io/multi:1", "registry.k8s.io/absent:1")}, "linux/amd64")))
	l.start(t)
	l.Ctr(t, "images", "pull", "--platform", "linux/arm64", "registry.k8s.io/multi:1")
	arm := multi.For("linux/arm64")
	if got := len(r.Log.Match("GET", "/v2/edge/multi/blobs/"+arm.Layers[0].Digest.String())); got != 1 {
		t.Errorf("got %d requests of the layer for linux/arm64, want 1: %q", got, r.Log.Lines())
	}
	const want = "holds no image for the platform that is wanted"
	if out, err := l.TryCtr(t, "images", "pull", "--platform", "linux/arm64", "registry.k8s.io/absent:1"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %s, error %v, want %q", out, err, want)
	}
}

// TestPullWhileLoading pulls images as soon as containerd serves: those of a compressed bundle that has not been listed
// yet, and those that are being loaded, come from the bundle.
func TestPullWhileLoading(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	var bundled []image.Named
	for i := range uint64(4) {
		bundled = append(bundled, image.New(image.Config{Layers: []image.Layer{
			image.NewLayer(image.Random("a", 220+i, 12<<20)), image.NewLayer(image.Random("b", 230+i, 100)),
		}}).Name(fmt.Sprintf("registry.k8s.io/a:%d", i)))
	}
	archive := image.Tar(image.OCI(bundled))
	for _, pack := range []struct {
		name string
		data []byte
	}{{"plain", archive}, {"gzip", slowly(t, archive)}} {
		t.Run(pack.name, func(t *testing.T) {
			l := newLoading(t, entry(t, r, "edge"), daemon.Options{CRI: true})
			l.put(t, "bundle.tar", pack.data)
			if err := l.Run(t); err != nil {
				t.Fatal(err)
			}
			if out, _ := l.status(t); pack.name == "gzip" && !strings.Contains(out, "bundle.tar: listing\n") {
				t.Errorf("got status\n%s\nwant the bundle not listed yet at the first pull", out)
			}
			var work sync.WaitGroup
			start := time.Now()
			for _, n := range bundled {
				for _, ref := range []string{n.Names[0], "registry.k8s.io/a@" + n.Digest.String()} {
					work.Go(func() {
						if err := pullCRI(t, l.Daemon, ref); err != nil {
							t.Errorf("%s after %s: %v", ref, time.Since(start), err)
						}
					})
				}
				work.Go(func() {
					if err := pullTransfer(t, l.Daemon, n.Names[0]); err != nil {
						t.Errorf("%s: %v", n.Names[0], err)
					}
				})
			}
			work.Wait()
			l.waitRound(t, 0)
			for _, n := range bundled {
				l.wantLoaded(t, n)
			}
			if out, good := l.status(t); !good {
				t.Errorf("got status\n%s", out)
			}
			if left := l.Ctr(t, "-n", "k8s.io", "leases", "ls", "-q"); left != "" {
				t.Errorf("got leases %q, want none", left)
			}
		})
	}
	if got := r.Log.Requests(); len(got) != 0 {
		t.Errorf("got requests %v, want none", got)
	}
}

// TestPullKeepsLoadedLayers pulls a loaded image through CRI, which discards layers that are unpacked, and pulls it from a registry
// under a name that no bundle has. The loader's own setting is about images of bundles: what it loaded stays whole, and the next
// start finds nothing to repair.
func TestPullKeepsLoadedLayers(t *testing.T) {
	daemon.RequireRoot(t)
	const ref, other = "quay.io/loaded:1", "quay.io/other:1"
	img := oneLayer(345)
	r := registry.Start(t, registry.Options{})
	img.Push(t, r, other)
	l := newLoading(t, entry(t, r, ""),
		daemon.Options{CRI: true, Config: criSetting("discard_unpacked_layers = true")})
	l.bundle(t, "a.tar", img.Name(ref))
	l.start(t)
	before := l.blobs(t)
	for _, name := range []string{ref, other} {
		if err := pullCRI(t, l.Daemon, name); err != nil {
			t.Fatal(err)
		}
	}
	l.collect(t)
	l.wantBlobs(t, before)
	l.restart(t)
	if out, good := l.status(t); !strings.Contains(out, ": present") || !good {
		t.Errorf("got status\n%s\nwant the image present", out)
	}
}
