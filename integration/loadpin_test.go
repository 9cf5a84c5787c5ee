// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

const bundleLabel, pinLabel = "io.berth.bundle", "io.cri-containerd.pinned"

// oneLayer is an image that is small, and another for each seed.
func oneLayer(seed uint64, names ...string) image.Named {
	return image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", seed, 20000))}}).Name(names...)
}

// TestLoadPins keeps loaded images pinned whatever is done to them, and CRI lists them as if it had pulled them (REL-07, L15).
func TestLoadPins(t *testing.T) {
	daemon.RequireRoot(t)
	const ref = "registry.k8s.io/a:1"
	r := registry.Start(t, registry.Options{})
	a := oneLayer(50, ref)
	a.Push(t, r, "edge/"+ref)
	loose := oneLayer(51)
	loose.Push(t, r, "edge/quay.io/loose:1")
	l := newLoading(t, entry(t, r, "edge")+rule("registry.k8s.io", r.Host()+"/edge/registry.k8s.io")+"bundle = false\n", daemon.Options{CRI: true})
	path := l.bundle(t, "bundle.tar", a)
	l.start(t)
	for _, tc := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"after the load", func(*testing.T) {}},
		{"after a start", func(t *testing.T) { l.restart(t) }},
		{"after CRI pulled it from a registry", func(t *testing.T) {
			r.Log.Reset()
			if err := pullCRI(t, l.Daemon, ref); err != nil {
				t.Fatal(err)
			}
			if len(r.Log.Requests()) == 0 {
				t.Error("got no request of the registry, want it asked: bundle = false")
			}
		}},
		{"after CRI pulled it by digest", func(t *testing.T) {
			if err := pullCRI(t, l.Daemon, "registry.k8s.io/a@"+a.Digest.String()); err != nil {
				t.Fatal(err)
			}
		}},
		{"after ctr pulled it with other labels", func(t *testing.T) {
			l.Ctr(t, "-n", "k8s.io", "images", "pull", "--label", "team=x", ref)
			if i, err := l.get(t, ref); err != nil || i.Labels["team"] != "x" {
				t.Errorf("got labels %v %v, want those of the pull too", i.Labels, err)
			}
		}},
		{"after ctr imported it", func(t *testing.T) { l.Ctr(t, "-n", "k8s.io", "images", "import", path) }},
		{"after the labels were removed, and a start", func(t *testing.T) {
			for _, name := range []string{ref, "registry.k8s.io/a@" + a.Digest.String(), a.ConfigDigest.String()} {
				l.Ctr(t, "-n", "k8s.io", "images", "label", name, pinLabel+"=", bundleLabel+"=")
			}
			l.waitPinned(t, ref, false)
			l.restart(t)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.do(t)
			l.waitPinned(t, ref, true)
			l.wantLoaded(t, a)
			for _, name := range []string{ref, "registry.k8s.io/a@" + a.Digest.String(), a.ConfigDigest.String()} {
				i, err := l.get(t, name)
				if err != nil || i.Labels[pinLabel] != "pinned" || i.Labels[bundleLabel] != path || i.Target.Digest != a.Digest {
					t.Errorf("%s: got labels %v, target %s, %v", name, i.Labels, i.Target.Digest, err)
				}
			}
			listed := l.criList(t, a.ConfigDigest)
			if !slices.Equal(listed.RepoTags, []string{ref}) || !slices.Equal(listed.RepoDigests, []string{"registry.k8s.io/a@" + a.Digest.String()}) || !listed.Pinned {
				t.Errorf("got image %v of CRI's list", listed)
			}
		})
	}
	// What kubelet's garbage collection does: it removes images that are not pinned.
	if err := pullCRI(t, l.Daemon, "quay.io/loose:1"); err != nil {
		t.Fatal(err)
	}
	images, _ := l.CRI(t)
	list, err := images.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list.Images {
		if !i.Pinned {
			if _, err := images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: i.Id}}); err != nil {
				t.Error(err)
			}
		}
	}
	if l.criStatus(t, "quay.io/loose:1") != nil {
		t.Error("got the image that is not pinned, want it removed")
	}
	l.wantLoaded(t, a)
	out, _, code := berth(t, "unpin", "--all", "--address", l.Address)
	if code != 0 || out != "unpinned 3 records of images\n" {
		t.Errorf("unpin: got %d %q", code, out)
	}
	l.waitPinned(t, ref, false)
	for name := range targets(t, l.Daemon, "k8s.io") {
		if i, err := l.get(t, name); err != nil || i.Labels[bundleLabel]+i.Labels[pinLabel] != "" {
			t.Errorf("%s: got labels %v %v after unpin", name, i.Labels, err)
		}
	}
}

// TestLoadUnpins takes a bundle away, as an upgrade of the operating system does: its images stay, and are unpinned once
// what replaces them is loaded.
func TestLoadUnpins(t *testing.T) {
	daemon.RequireRoot(t)
	const ref = "registry.k8s.io/a:1"
	digested := func(d digest.Digest) string { return "registry.k8s.io/a@" + d.String() }
	for _, same := range []bool{true, false} {
		first, second := oneLayer(60, ref), oneLayer(61, ref)
		name := map[bool]string{true: "images.tar", false: "images-2.tar"}[same]
		t.Run("replaced by "+name, func(t *testing.T) {
			l := newLoading(t, "", daemon.Options{CRI: true}, "watch = false")
			path := l.bundle(t, "images.tar", first)
			l.start(t)
			l.Stop(t)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			archive := image.Tar(image.OCI([]image.Named{second}))
			l.put(t, name, archive[:len(archive)/2]) // broken
			l.start(t)
			if out, good := l.status(t); good || !strings.Contains(out, "error: ") {
				t.Errorf("got status\n%s\nwant an error", out)
			}
			stays := "note: " + digested(first.Digest) + " is of a bundle that has gone, and stays pinned until everything else is loaded"
			if out, _ := l.status(t); strings.Contains(out, stays) == same { // it is not known what is in a bundle that is there, and broken
				t.Errorf("got status\n%s\nwant %q, unless the bundle has the path of the former: %t; the log says\n%s", out, stays, same,
					strings.Join(append(l.Log.Lines("bundles are loaded"), l.Log.Lines("stay pinned")...), "\n"))
			}
			l.wantLoaded(t, first)
			l.Stop(t)
			l.put(t, name, archive)
			l.start(t)
			l.wantLoaded(t, second)
			l.waitPinned(t, digested(first.Digest), false)
			if out, good := l.status(t); !good || strings.Contains(out, "stays pinned") {
				t.Errorf("got status\n%s\nwant nothing of the former image", out)
			}
			if err := first.Compare(l.Rootfs(t, "k8s.io", digested(first.Digest))); err != nil {
				t.Error(err)
			}
			l.Stop(t)
			if err := os.Remove(filepath.Join(l.folder, name)); err != nil {
				t.Fatal(err)
			}
			l.start(t)
			l.waitPinned(t, ref, false)
			for _, img := range []image.Named{first, second} {
				if i, err := l.get(t, digested(img.Digest)); err != nil || i.Labels[bundleLabel]+i.Labels[pinLabel] != "" {
					t.Errorf("%s: got labels %v %v, want it there without them", img.Digest, i.Labels, err)
				}
			}
		})
	}
	t.Run("another namespace", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{CRI: true})
		n := oneLayer(63, ref)
		l.bundle(t, "images.tar", n)
		l.start(t)
		l.Ctr(t, "-n", "k8s.io", "leases", "create", "--id", "io.berth.load") // as of a load that was killed
		l.configureLoader(t, `namespace = "other"`)
		l.start(t)
		l.waitPinned(t, ref, false)
		for _, i := range recorded(t, l.Daemon, "k8s.io") {
			if i.Labels[bundleLabel] != "" || i.Target.Digest != n.Digest {
				t.Errorf("%s: got labels %v, target %s, want it there and no bundle's", i.Name, i.Labels, i.Target.Digest)
			}
		}
		for _, i := range recorded(t, l.Daemon, "other") {
			if i.Labels[pinLabel] != "pinned" {
				t.Errorf("%s: got labels %v, want it pinned in the namespace of the stanza", i.Name, i.Labels)
			}
		}
		if left := l.Ctr(t, "-n", "k8s.io", "leases", "ls", "-q"); left != "" {
			t.Errorf("got leases %q in the former namespace, want none", left)
		}
	})
	t.Run("by hand, before everything is loaded", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{})
		path := l.bundle(t, "images.tar", oneLayer(64, ref))
		l.start(t)
		l.Stop(t)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		l.put(t, "bad.tar", []byte("<html>"))
		l.configureLoader(t, `namespace = "other"`)
		l.start(t)
		if out, _ := l.status(t); !strings.Contains(out, "note: "+ref+" is of a bundle that has gone, and stays pinned") {
			t.Errorf("got status\n%s\nwant the image that stays pinned", out)
		}
		if out, _, code := berth(t, "unpin", "--all", "--address", l.Address); code != 0 || out != "unpinned 3 records of images\n" {
			t.Errorf("unpin: got %d %q", code, out)
		}
		if out, _ := l.status(t); strings.Contains(out, "stays pinned") {
			t.Errorf("got status\n%s\nwant nothing pinned", out)
		}
	})
	t.Run("pin = false after pin = true", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{CRI: true})
		l.bundle(t, "images.tar", oneLayer(62, ref))
		l.start(t)
		l.waitPinned(t, ref, true)
		const other = "quay.io/hand:1"
		hand := image.WriteFile(t, filepath.Join(openDir(t), "hand.tar"), image.Tar(image.OCI([]image.Named{oneLayer(65, other)})))
		if out, errs, code := berth(t, "load", "--address", l.Address, hand); code != 0 {
			t.Fatalf("load: %d\n%s%s", code, out, errs)
		}
		l.waitPinned(t, other, true)
		l.configureLoader(t, "pin = false")
		l.start(t)
		l.waitPinned(t, ref, false)
		l.waitPinned(t, other, false)
		for _, i := range recorded(t, l.Daemon, "k8s.io") {
			if i.Labels[pinLabel] != "" || i.Labels[bundleLabel] == "" {
				t.Errorf("%s: got labels %v, want it a bundle's and not pinned", i.Name, i.Labels)
			}
		}
	})
	t.Run("by hand, and pulled again", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{CRI: true})
		l.bundle(t, "images.tar", oneLayer(66, ref))
		l.start(t)
		l.waitPinned(t, ref, true)
		if out, errs, code := berth(t, "unpin", "--all", "--address", l.Address); code != 0 {
			t.Fatalf("unpin: %d\n%s%s", code, out, errs)
		}
		if err := pullCRI(t, l.Daemon, ref); err != nil {
			t.Fatal(err)
		}
		for _, i := range recorded(t, l.Daemon, "k8s.io") {
			if i.Labels[pinLabel]+i.Labels[bundleLabel] != "" {
				t.Errorf("%s: got labels %v, want it no bundle's and not pinned", i.Name, i.Labels)
			}
		}
		l.restart(t)
		l.waitPinned(t, ref, true)
	})
	t.Run("pin = false, and CRI pins its sandbox image", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{CRI: true, Pause: ref}, "pin = false")
		l.bundle(t, "images.tar", oneLayer(62, ref))
		l.start(t)
		l.waitPinned(t, ref, true)
		l.restart(t)
		l.waitPinned(t, ref, true)
		if out, good := l.status(t); strings.Count(out, ": present") != 2 || !good {
			t.Errorf("got status\n%s\nwant everything present", out)
		}
	})
}

// TestLoadLeadsElsewhere has a path lead to other bundles, by a symbolic link and by the stanza, while the former are still there:
// their images are unpinned. One that was loaded by hand stays pinned.
func TestLoadLeadsElsewhere(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{CRI: true})
	at := func(name string) string { return filepath.Join(l.folder, name) }
	l.bundle(t, "one/a.tar", oneLayer(70, "registry.k8s.io/a:1"))
	l.bundle(t, "two/a.tar", oneLayer(71, "registry.k8s.io/a:2"))
	l.bundle(t, "three/a.tar", oneLayer(72, "registry.k8s.io/a:3"))
	hand := l.bundle(t, "hand/h.tar", oneLayer(74, "registry.k8s.io/hand:1"))
	link := func(target, name string) {
		t.Helper()
		if err := errors.Join(os.Symlink(target, at("new")), os.Rename(at("new"), at(name))); err != nil {
			t.Fatal(err)
		}
	}
	path := func(name string) { l.dropIns["20-loader.toml"] = loaderStanza(fmt.Sprintf("paths = [%q]", at(name))) }
	link("one", "current")
	path("current")
	l.start(t)
	if out, errs, code := berth(t, "load", "--address", l.Address, hand); code != 0 {
		t.Fatalf("load: %d\n%s%s", code, out, errs)
	}
	l.waitPinned(t, "registry.k8s.io/a:1", true)
	link("two", "current")
	within(t, 10*time.Second, "image of the next folder", func() bool { return l.isPinned(t, "registry.k8s.io/a:2") })
	within(t, 10*time.Second, "former image without a pin", func() bool { return !l.isPinned(t, "registry.k8s.io/a:1") })
	l.Stop(t)
	path("three")
	l.start(t)
	l.waitPinned(t, "registry.k8s.io/a:3", true)
	l.waitPinned(t, "registry.k8s.io/a:2", false)
	l.waitPinned(t, "registry.k8s.io/hand:1", true)
	l.restart(t)
	l.waitPinned(t, "registry.k8s.io/hand:1", true)
}
