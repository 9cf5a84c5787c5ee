// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// threeLayers is an image of a shared layer and two of its own.
func threeLayers(shared image.Layer, seed uint64, names ...string) image.Named {
	return image.New(image.Config{Layers: []image.Layer{
		shared, image.NewLayer(image.Random("a", seed, 30000)), image.NewLayer(image.Random("b", seed+1, 30000)),
	}}).Name(names...)
}

// TestLoadRepairs damages one thing at a time of what was loaded, and starts again: that thing is mended, and nothing else
// is written (REL-06).
func TestLoadRepairs(t *testing.T) {
	daemon.RequireRoot(t)
	shared := image.NewLayer(image.Random("shared", 10, 30000))
	a, b := threeLayers(shared, 20, "registry.k8s.io/a:1"), threeLayers(shared, 30, "registry.k8s.io/b:1")
	truncate := func(d digest.Digest, part int64) func(testing.TB, loading) {
		return func(t testing.TB, l loading) {
			info, err := os.Stat(l.blob(d))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(l.blob(d), info.Size()*part/2); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(d digest.Digest) func(testing.TB, loading) {
		return func(t testing.TB, l loading) {
			if err := os.Remove(l.blob(d)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctr := func(args ...string) func(testing.TB, loading) {
		return func(t testing.TB, l loading) { l.Ctr(t, append([]string{"-n", "k8s.io"}, args...)...) }
	}
	top, own := a.Layers[2].Digest, a.Layers[1].Digest
	digested := "registry.k8s.io/a@" + a.Digest.String()
	for _, format := range []struct {
		name string
		data []byte
	}{
		{"plain", image.Tar(image.OCI([]image.Named{a, b}))},
		{"compressed", image.Zstd(image.Tar(image.OCI([]image.Named{a, b})))},
	} {
		l := newLoading(t, "", daemon.Options{CRI: true})
		path := l.put(t, "bundle.tar", format.data)
		l.start(t)
		for _, tc := range []struct {
			name    string
			running func(testing.TB, loading) // before the stop
			stopped func(testing.TB, loading) // after it
			written []digest.Digest
			shared  bool // the other image has it, too, and either is the one that mends it
		}{
			{name: "a layer is gone", stopped: remove(top), written: []digest.Digest{top}},
			{name: "a shared layer is gone", stopped: remove(shared.Digest), written: []digest.Digest{shared.Digest}, shared: true},
			{name: "a layer has length 0", stopped: truncate(own, 0), written: []digest.Digest{own}},
			{name: "a layer is cut in half", stopped: truncate(top, 1), written: []digest.Digest{top}},
			{name: "the manifest has length 0", stopped: truncate(a.Digest, 0), written: []digest.Digest{a.Digest}},
			{name: "the manifest is cut in half", stopped: truncate(a.Digest, 1), written: []digest.Digest{a.Digest}},
			{name: "the config is gone", stopped: remove(a.ConfigDigest), written: []digest.Digest{a.ConfigDigest}},
			{name: "the record is gone", running: ctr("images", "rm", "registry.k8s.io/a:1")},
			{name: "the record of the digest is gone", running: ctr("images", "rm", digested)},
			{name: "the record of the id is gone", running: ctr("images", "rm", a.ConfigDigest.String())},
			{name: "the top snapshot is gone", running: ctr("snapshots", "rm", chainID(a.Image, 3))},
			{name: "two snapshots are gone", running: func(t testing.TB, l loading) {
				ctr("snapshots", "rm", chainID(a.Image, 3))(t, l)
				if out, err := l.TryCtr(t, "-n", "k8s.io", "snapshots", "rm", chainID(a.Image, 2)); err != nil && !strings.Contains(err.Error(), "not found") {
					t.Fatalf("%v: %s", err, out) // garbage collection, which runs just after the start, may have been faster
				}
			}},
			{name: "a layer has its length and other bytes, and the snapshot is gone",
				running: ctr("snapshots", "rm", chainID(a.Image, 3)),
				stopped: func(t testing.TB, l loading) { spoil(t, l.blob(top)) }, written: []digest.Digest{top}},
			{name: "the content store has forgotten a layer", running: ctr("content", "rm", top.String()), written: []digest.Digest{top}},
			{name: "the content store has forgotten a lower layer, and the top snapshot is gone",
				running: func(t testing.TB, l loading) {
					ctr("content", "rm", own.String())(t, l)
					ctr("snapshots", "rm", chainID(a.Image, 3))(t, l)
				}, written: []digest.Digest{own}},
		} {
			t.Run(format.name+": "+tc.name, func(t *testing.T) {
				if tc.running != nil {
					tc.running(t, l)
				}
				before := l.blobs(t)
				l.Stop(t)
				if tc.stopped != nil {
					tc.stopped(t, l)
				}
				l.start(t)
				out, good := l.status(t)
				got := []string{stateOf(out, a.Digest.String()), stateOf(out, b.Digest.String())}
				if tc.shared && slices.Contains(got, "repaired") {
					got = []string{"repaired", "present"}
				}
				if !good || got[0] != "repaired" || got[1] != "present" {
					t.Errorf("got states %q, want the first repaired and the other present:\n%s", got, out)
				}
				l.wantBlobs(t, before, tc.written...)
				l.wantLoaded(t, a)
				l.wantLoaded(t, b)
				for _, name := range []string{digested, a.ConfigDigest.String()} {
					if i, err := l.get(t, name); err != nil || i.Target.Digest != a.Digest {
						t.Errorf("%s: got %v %v", name, i.Target, err)
					}
				}
			})
		}
		t.Run(format.name+": nothing", func(t *testing.T) {
			before := l.blobs(t)
			for _, what := range []func(){func() {}, func() { now := time.Now(); _ = os.Chtimes(path, now, now) }} {
				l.Stop(t)
				what()
				l.start(t)
				l.wantBlobs(t, before)
				if out, good := l.status(t); stateOf(out, path) != "present" || !good {
					t.Errorf("got status\n%s\nwant the bundle present", out)
				}
				if ingests, _ := filepath.Glob(filepath.Join(l.Root, "io.containerd.content.v1.content/ingest/*")); len(ingests) > 0 {
					t.Errorf("got ingests %q", ingests)
				}
			}
		})
	}
}

// stored packs an archive with gzip without making it smaller: the size does not depend on the content.
func stored(data []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.NoCompression)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

// TestLoadNoticesReplacedBundle puts another bundle, of the same size and time, in the place of one that was loaded.
func TestLoadNoticesReplacedBundle(t *testing.T) {
	daemon.RequireRoot(t)
	of := func(seed uint64) image.Named {
		return image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", seed, 30000))}}).Name("registry.k8s.io/a:1")
	}
	for _, tc := range []struct {
		name string
		pack func([]byte) []byte
	}{
		{"plain", func(data []byte) []byte { return data }},
		{"gzip", stored},
	} {
		for _, how := range []string{"renamed", "written over"} {
			t.Run(tc.name+" "+how, func(t *testing.T) {
				first, second := of(40), of(41)
				old, data := tc.pack(image.Tar(image.OCI([]image.Named{first}))), tc.pack(image.Tar(image.OCI([]image.Named{second})))
				if len(old) != len(data) {
					t.Fatalf("got bundles of %d and %d bytes, want one size", len(old), len(data))
				}
				l := newLoading(t, "", daemon.Options{CRI: true})
				path := l.put(t, "bundle.tar", old)
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				l.start(t)
				l.wantLoaded(t, first)
				l.Stop(t)
				if how == "renamed" {
					l.put(t, "bundle.tar", data)
				} else {
					image.WriteFile(t, path, data)
				}
				if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
					t.Fatal(err)
				}
				l.start(t)
				l.wantLoaded(t, second)
				l.waitPinned(t, "registry.k8s.io/a@"+first.Digest.String(), false)
			})
		}
	}
}

// TestNextStartWritesNothing starts again with everything loaded: containerd's database changes as often as without the loader.
func TestNextStartWritesNothing(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{Level: "info"})
	// containerd collects garbage 100 ms after a start, which is a change of its database, and may end before or after that.
	l.dropIns["20-gc.toml"] = "version = 3\n[plugins.\"io.containerd.gc.v1.scheduler\"]\nstartup_delay = \"1h\"\n"
	l.bundle(t, "a.tar", oneLayer(920, "quay.io/a:1"), oneLayer(921, "quay.io/b:1"))
	l.put(t, "b.tar.gz", image.Gzip(image.Tar(image.OCI([]image.Named{oneLayer(922, "quay.io/c:1")}))))
	l.start(t)
	l.waitVerified(t) // or the next start verifies, too
	l.Stop(t)
	changes := func(start func()) int {
		before := transactions(t, l.Root)
		start()
		l.Stop(t)
		return transactions(t, l.Root) - before
	}
	got := changes(func() { l.start(t) })
	l.dropIns["30-none.toml"] = fmt.Sprintf("version = 3\ndisabled_plugins = [%q]\n", loaderURI)
	want := changes(func() {
		if err := l.Run(t); err != nil {
			t.Fatal(err)
		}
	})
	if got != want {
		t.Errorf("got %d changes of containerd's database at a start with everything loaded, want %d as without the loader", got, want)
	}
}

// transactions is how often containerd's database was written to.
func transactions(t testing.TB, root string) int {
	t.Helper()
	db, err := bolt.Open(filepath.Join(root, "io.containerd.metadata.v1.bolt/meta.db"), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	return tx.ID()
}
