// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestLoadPlatforms loads an index of which other platforms are absent, beside images that are for another machine alone (E21).
func TestLoadPlatforms(t *testing.T) {
	daemon.RequireRoot(t)
	index := image.Multi(300).Name("registry.k8s.io/index:1")
	other := image.Small("linux/arm64", 301).Name("registry.k8s.io/other:1")
	otherIndex := image.Index(image.Small("linux/arm64", 302), image.Small("linux/s390x", 303)).Name("registry.k8s.io/otherindex:1")
	beside := oneLayer(304, "registry.k8s.io/beside:1")
	l := newLoading(t, "", daemon.Options{CRI: true})
	l.put(t, "a.tar", image.Tar(image.OCI([]image.Named{index}, "linux/amd64")))
	foreign := l.bundle(t, "b.tar", other)
	foreignIndex := l.bundle(t, "c.tar", otherIndex, beside)
	foreignSave := l.put(t, "d.tar", image.Tar(image.DockerSave([]image.Named{other})))
	l.start(t)
	out, good := l.status(t)
	if good {
		t.Error("got exit status 0, want 1")
	}
	for path, says := range map[string]string{
		foreign:      "registry.k8s.io/other:1 of bundle " + foreign + ": it is for linux/arm64, this machine is linux/amd64",
		foreignIndex: "no image for this machine, linux/amd64; it is for linux/arm64, linux/s390x",
		foreignSave:  "it is for linux/arm64, this machine is linux/amd64",
	} {
		if got := stateOf(out, path); got != "failed" {
			t.Errorf("%s: got state %q, want failed\n%s", path, got, out)
		}
		if got := l.Log.Lines("level=error", path); len(got) != 1 || !strings.Contains(got[0], says) {
			t.Errorf("%s: got lines %q, want one error that says %q", path, got, says)
		}
	}
	l.wantLoaded(t, image.Named{Image: index.For("linux/amd64"), Names: index.Names})
	l.wantLoaded(t, beside)
	if got := targets(t, l.Daemon, "k8s.io")["registry.k8s.io/index:1"]; got != index.Digest {
		t.Errorf("got target %s, want the index %s", got, index.Digest)
	}
	if l.criStatus(t, "registry.k8s.io/other:1") != nil {
		t.Error("got an image of another platform")
	}

	// The same for a machine that is said to be another.
	l.configureLoader(t, `platform = "linux/arm64"`)
	l.start(t)
	if got := targets(t, l.Daemon, "k8s.io")["registry.k8s.io/other:1"]; got != other.Digest {
		t.Errorf("got %q with platform arm64, want it loaded:\n%s", got, l.Log.Tail(10))
	}
}

// TestLoadSameImageOften has one image in five bundles, and bundles that fight for a name (REL-09, L12).
func TestLoadSameImageOften(t *testing.T) {
	daemon.RequireRoot(t)
	same := oneLayer(310, "registry.k8s.io/same:1")
	first, second := oneLayer(311, "registry.k8s.io/fight:1"), oneLayer(312, "registry.k8s.io/fight:1", "registry.k8s.io/second:1")
	third := oneLayer(313, "registry.k8s.io/fight:1")
	l := newLoading(t, "", daemon.Options{CRI: true})
	for i := range 5 {
		l.bundle(t, fmt.Sprintf("same-%d.tar", i), same)
	}
	// The bundle in front is the last to be listed.
	a := l.put(t, "a.tar", image.Gzip(image.Tar(image.OCI([]image.Named{first, oneLayer(314, "registry.k8s.io/x:1")}))))
	b, c := l.bundle(t, "b.tar", second), l.bundle(t, "c.tar", third)
	check := func(t *testing.T) {
		t.Helper()
		l.wantLoaded(t, same)
		l.wantLoaded(t, first)
		l.wantLoaded(t, image.Named{Image: second.Image, Names: []string{"registry.k8s.io/second:1"}})
		out, good := l.status(t)
		if !good {
			t.Errorf("got an exit status of a fault:\n%s", out)
		}
		note := fmt.Sprintf("note: registry.k8s.io/fight:1 is that of %s (%s)", a, first.Digest)
		if got := strings.Count(out, note); got != 2 {
			t.Errorf("got note %q %d times, want it of two bundles:\n%s", note, got, out)
		}
		if got := stateOf(out, third.Digest.String()); got != "shadowed" {
			t.Errorf("got state %q of an image without a name, want shadowed", got)
		}
		for _, path := range []string{b, c} {
			if got := l.Log.Lines("level=warning", path, "name is not given", first.Digest.String()); len(got) == 0 {
				t.Errorf("got no warning of %s", path)
			}
		}
		if i, err := l.get(t, "registry.k8s.io/same:1"); err != nil || !strings.HasSuffix(i.Labels[bundleLabel], "same-0.tar") {
			t.Errorf("got labels %v %v, want the first of the five bundles", i.Labels, err)
		}
	}
	l.start(t)
	check(t)
	before := l.blobs(t)
	l.restart(t)
	check(t)
	l.wantBlobs(t, before)
	if err := pullCRI(t, l.Daemon, "registry.k8s.io/fight@"+third.Digest.String()); err != nil {
		t.Errorf("pull what has no name by its digest: %v", err)
	}
	l.Stop(t)
	l.put(t, "a.tar", image.Tar(image.OCI([]image.Named{oneLayer(315, "registry.k8s.io/x:1")})))
	l.start(t)
	l.wantLoaded(t, second)
	if i, err := l.get(t, "registry.k8s.io/fight:1"); err != nil || i.Labels[bundleLabel] != b {
		t.Errorf("got labels %v %v, want the name given to the next bundle", i.Labels, err)
	}
}

// TestLoadConflict loads an image whose name another has that no bundle brought (REL-09, E38).
func TestLoadConflict(t *testing.T) {
	daemon.RequireRoot(t)
	const ref = "registry.k8s.io/a:1"
	mine, theirs := oneLayer(320, ref), oneLayer(321, ref)
	for _, tc := range []struct {
		name, line, said string
		has              image.Named
	}{
		{"replace", `on_conflict = "replace"`, "it is that of the bundle's now", theirs},
		{"default", "", "it is that of the bundle's now", theirs},
		{"keep", `on_conflict = "keep"`, "which is kept", mine},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLoading(t, "", daemon.Options{CRI: true}, tc.line)
			l.start(t)
			l.Ctr(t, "-n", "k8s.io", "images", "import", image.WriteFile(t, t.TempDir()+"/mine.tar", image.Tar(image.OCI([]image.Named{mine}))))
			l.Stop(t)
			l.bundle(t, "bundle.tar", theirs)
			l.start(t)
			if got := targets(t, l.Daemon, "k8s.io")[ref]; got != tc.has.Digest {
				t.Errorf("got %s, want %s", got, tc.has.Digest)
			}
			if got := l.Log.Lines("level=warning", tc.said, mine.Digest.String(), theirs.Digest.String()); len(got) != 1 {
				t.Errorf("got lines %q, want one warning with both digests", got)
			}
			digested := "registry.k8s.io/a@" + theirs.Digest.String()
			if got := l.criStatus(t, digested); got == nil || !got.Pinned {
				t.Errorf("got %v, want the bundle's image by its digest, pinned", got)
			}
			l.collect(t) // the index of the import by hand
			before := l.blobs(t)
			l.restart(t)
			l.wantBlobs(t, before)
			if out, good := l.status(t); stateOf(out, theirs.Digest.String()) != "present" || !good {
				t.Errorf("got status\n%s\nwant it present", out)
			}
		})
	}
}

// TestLoadWithoutLayers drops compressed layers that are unpacked.
func TestLoadWithoutLayers(t *testing.T) {
	daemon.RequireRoot(t)
	shared := image.NewLayer(image.Random("shared", 330, 30000))
	a, b := threeLayers(shared, 331, "registry.k8s.io/a:1"), threeLayers(shared, 333, "registry.k8s.io/b:1")
	for _, pack := range []func([]byte) []byte{func(d []byte) []byte { return d }, image.Gzip} {
		l := newLoading(t, "", daemon.Options{CRI: true}, "keep_layers = false")
		l.put(t, "bundle.tar", pack(image.Tar(image.OCI([]image.Named{a, b}))))
		l.start(t)
		small := func() bool { return len(l.blobs(t)) == 4 }
		within(t, 10*time.Second, "content store without layers", small)
		l.wantLoaded(t, a)
		before := l.blobs(t)
		l.restart(t)
		l.wantBlobs(t, before)
		if out, good := l.status(t); strings.Count(out, ": present") != 3 || !good {
			t.Errorf("got status\n%s\nwant everything present", out)
		}
		if err := pullCRI(t, l.Daemon, "registry.k8s.io/a:1"); err != nil {
			t.Error(err)
		}
		l.Ctr(t, "-n", "k8s.io", "snapshots", "rm", chainID(b.Image, 3))
		l.restart(t)
		l.wantLoaded(t, a)
		l.wantLoaded(t, b)
		within(t, 10*time.Second, "content store without layers", small)
		// With layers again, they come back.
		l.configureLoader(t, "keep_layers = true")
		l.start(t)
		if got := l.blobs(t); len(got) != 9 {
			t.Errorf("got %d blobs, want layers again: 9", len(got))
		}
		if got := l.Ctr(t, "-n", "k8s.io", "images", "check"); slices.ContainsFunc(strings.Split(got, "\n"), func(line string) bool { return strings.Contains(line, "incomplete") }) {
			t.Errorf("got\n%s", got)
		}
		// And go once more, but for the one that an image has which no bundle brought.
		other := image.New(image.Config{Layers: []image.Layer{shared}}).Name("quay.io/other:1")
		l.Ctr(t, "-n", "k8s.io", "images", "import", image.WriteFile(t, filepath.Join(t.TempDir(), "other.tar"), image.Tar(image.OCI([]image.Named{other}))))
		l.configureLoader(t, "keep_layers = false")
		l.start(t)
		within(t, 10*time.Second, "content store without layers", func() bool { return len(l.blobs(t)) == 4+len(other.Blobs()) })
		if out, good := l.status(t); strings.Count(out, ": present") != 3 || !good {
			t.Errorf("got status\n%s\nwant everything present", out)
		}
		l.wantLoaded(t, a)
	}
}

// TestLoadSharedRecords loads images that have a record in common: one image under two names of a repository, and one
// configuration with two manifests. A start at which nothing changed changes nothing, and what a bundle that has gone recorded
// is recorded by the other.
func TestLoadSharedRecords(t *testing.T) {
	daemon.RequireRoot(t)
	img := oneLayer(340)
	l := newLoading(t, "", daemon.Options{CRI: true})
	first := l.bundle(t, "a.tar", img.Name("registry.k8s.io/shared:1"))
	second := l.bundle(t, "b.tar", img.Name("registry.k8s.io/shared:2"))
	l.put(t, "c.tar", image.Tar(image.DockerSave([]image.Named{img.Name("registry.k8s.io/saved:1")})))
	l.start(t)
	ofBundles := func() map[string]string {
		labels := map[string]string{}
		for _, i := range recorded(t, l.Daemon, "k8s.io") {
			labels[i.Name] = i.Labels[bundleLabel] + " " + i.Target.Digest.String()
		}
		return labels
	}
	before := ofBundles()
	for range 2 {
		l.restart(t)
		if out, good := l.status(t); strings.Count(out, ": present") != 6 || !good {
			t.Errorf("got status\n%s\nwant everything present", out)
		}
		if got := ofBundles(); !maps.Equal(got, before) {
			t.Errorf("got records %v, want those of before, %v", got, before)
		}
	}
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	digested := "registry.k8s.io/shared@" + img.Digest.String()
	within(t, 10*time.Second, "record by the second bundle", func() bool {
		i, err := l.get(t, digested)
		return err == nil && i.Labels[bundleLabel] == second && i.Labels[pinLabel] == "pinned"
	})
	l.waitPinned(t, img.ConfigDigest.String(), true)
}

// TestLoadOneNameTwice loads a bundle that gives a name to two images: it is the last one's, as with ctr.
func TestLoadOneNameTwice(t *testing.T) {
	daemon.RequireRoot(t)
	const ref = "registry.k8s.io/twice:1"
	bundled := []image.Named{oneLayer(350, ref), oneLayer(351, ref)}
	stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock)})
	for name, entries := range map[string][]image.Entry{"oci": image.OCI(bundled), "save": image.DockerSave(bundled)} {
		l := newLoading(t, "", daemon.Options{CRI: true})
		path := l.put(t, "a.tar", image.Tar(entries))
		l.start(t)
		stock.Ctr(t, "-n", name, "image", "import", path)
		if got, want := targets(t, l.Daemon, "k8s.io")[ref], targets(t, stock, name)[ref]; got != want || got == "" {
			t.Errorf("%s: got %s, stock %s", name, got, want)
		}
		if out, good := l.status(t); strings.Count(out, "shadowed") != 1 || !good {
			t.Errorf("%s: got status\n%s\nwant one image shadowed", name, out)
		}
	}
}
