// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/powercut"
)

// TestDiskFails has the disk of containerd's root fail in the middle of a load: it goes read-only, as ext4 does after an error
// (L7), or answers nothing but errors (L8). Containerd lives on and says so; after the next boot everything is loaded.
func TestDiskFails(t *testing.T) {
	daemon.RequireRoot(t)
	for _, tc := range []struct {
		name string
		fail func(*testing.T, *powercut.Disk)
		says string
	}{
		{"read-only", func(t *testing.T, d *powercut.Disk) {
			if err := unix.Mount("", d.Dir, "", unix.MS_REMOUNT, "abort"); err != nil {
				t.Fatal(err)
			}
		}, "read-only file system"},
		{"errors", func(t *testing.T, d *powercut.Disk) { d.Cut(t) }, "input/output error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			disk := powercut.New(t, 256<<20)
			l := newLoading(t, "", daemon.Options{Root: filepath.Join(disk.Dir, "root"), Level: "info"})
			img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", 1, 30<<20)), image.NewLayer(image.Random("b", 2, 30<<20))}})
			l.bundle(t, "a.tar", img.Name("quay.io/a:1"))
			berth(t, "--version") // so that it is built
			if err := l.Run(t); err != nil {
				t.Fatal(err)
			}
			begun := func() bool {
				ingests, _ := filepath.Glob(filepath.Join(l.Root, "io.containerd.content.v1.content/ingest/*/data"))
				return len(ingests) > 0
			}
			for end := time.Now().Add(10 * time.Second); !begun(); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("got no load:\n%s", l.Log.Tail(20))
				}
			}
			tc.fail(t, disk)
			answered := time.Now()
			out, good := l.status(t)
			if took := time.Since(answered); took > 5*time.Second {
				t.Errorf("got an answer after %s, want it within 5s", took)
			}
			for end := time.Now().Add(5 * time.Second); good && time.Now().Before(end); out, good = l.status(t) {
				time.Sleep(100 * time.Millisecond)
			}
			// A write that the database refuses leaves its ingest locked in containerd's own content store, and whoever wants that
			// blob waits until containerd ends. A database that was to grow just then answers nothing any more, with an error of its own.
			unmapped := strings.Contains(out, "database isn't correctly mapped")
			if good && !strings.Contains(out, ": loading") || !good && !strings.Contains(out, tc.says) && !unmapped {
				t.Errorf("got status\n%s\nwant %q, or that it is loading", out, tc.says)
			}
			if _, err := l.Client().Version(t.Context()); err != nil {
				t.Errorf("got %v, want an answer of the daemon", err)
			}
			l.Kill()
			disk.Restore(t)
			l.start(t)
			if out, good := l.status(t); !good {
				t.Errorf("got status\n%s", out)
			}
			if err := img.Compare(l.Rootfs(t, "k8s.io", "quay.io/a:1")); err != nil {
				t.Error(err)
			}
			checkClean(t, l.node, "k8s.io")
		})
	}
}

// metadata is containerd's database.
func (l loading) metadata() string {
	return filepath.Join(l.Root, "io.containerd.metadata.v1.bolt/meta.db")
}

// TestOldMetadata puts containerd's database of before a load in the place of the one of after it (L17): what it does not know is
// loaded again, or collected if no bundle has it any more.
func TestOldMetadata(t *testing.T) {
	daemon.RequireRoot(t)
	for name, stays := range map[string]bool{"the bundle is there": true, "the bundle has gone": false} {
		t.Run(name, func(t *testing.T) {
			l := newLoading(t, "", daemon.Options{CRI: true})
			first, later := oneLayer(80, "registry.k8s.io/first:1"), oneLayer(81, "registry.k8s.io/later:1")
			l.bundle(t, "first.tar", first)
			l.start(t)
			l.Stop(t)
			old, err := os.ReadFile(l.metadata())
			if err != nil {
				t.Fatal(err)
			}
			path := l.bundle(t, "later.tar", later)
			l.start(t)
			l.wantLoaded(t, later)
			l.Stop(t)
			if !stays {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(l.metadata(), old, 0o600); err != nil {
				t.Fatal(err)
			}
			l.start(t)
			if out, good := l.status(t); !good {
				t.Errorf("got status\n%s", out)
			}
			l.wantLoaded(t, first)
			if stays {
				l.wantLoaded(t, later)
			}
			l.collect(t)
			if _, there := l.blobs(t)[later.Layers[0].Digest]; there != stays {
				t.Errorf("got the later layer's blob there: %t, want %t", there, stays)
			}
			l.wantBlobs(t, l.blobs(t))
			checkClean(t, l.node, "k8s.io")
		})
	}
}

// TestCorruptMetadata damages containerd's database (L18), so that containerd does not serve any more. What the loader's page
// says is done: everything is there again after the next start.
func TestCorruptMetadata(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{CRI: true, Root: shortDir(t)})
	img := oneLayer(82, "registry.k8s.io/a:1")
	l.bundle(t, "a.tar", img)
	l.start(t)
	l.Stop(t)
	data, err := os.ReadFile(l.metadata())
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for at := 2 * page; at < len(data); at += page { // behind the two that say where the others are
		copy(data[at:], bytes.Repeat([]byte{0xff}, page))
	}
	if err := os.WriteFile(l.metadata(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Run(t); err == nil {
		t.Error("got containerd started on a corrupt database")
		l.Kill()
	}
	if err := os.RemoveAll(l.Root); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	l.start(t)
	t.Logf("everything is loaded %s after the start", time.Since(start))
	if out, good := l.status(t); !good {
		t.Errorf("got status\n%s", out)
	}
	l.wantLoaded(t, img)
	checkClean(t, l.node, "k8s.io")
}

// TestClockJumps makes everything that the loader left, and the bundles, ten years older or younger (L26), as they are for a
// machine whose clock was set: nothing is loaded again, and nothing is waited for.
func TestClockJumps(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{CRI: true})
	plain, packed := oneLayer(83, "registry.k8s.io/plain:1"), oneLayer(84, "registry.k8s.io/packed:1")
	l.bundle(t, "plain.tar", plain)
	l.put(t, "packed.tar.gz", image.Gzip(image.Tar(image.OCI([]image.Named{packed}))))
	l.put(t, "bad.tar", []byte("no bundle at all"))
	l.start(t)
	for _, years := range []int{10, -10} {
		l.Stop(t)
		then := time.Now().AddDate(years, 0, 0)
		for _, dir := range []string{l.Root, l.folder} {
			err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil || e.Type()&fs.ModeSymlink != 0 {
					return err
				}
				return os.Chtimes(path, then, then)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		before := l.blobs(t)
		start := time.Now()
		l.start(t)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%d years: got everything loaded after %s, want at most 5s", years, took)
		}
		l.wantBlobs(t, before)
		out, _ := l.status(t)
		for _, name := range []string{"plain.tar", "packed.tar.gz"} {
			if got := stateOf(out, filepath.Join(l.folder, name)); got != "present" {
				t.Errorf("%d years: got %s %s, want it present", years, name, got)
			}
		}
		l.wantLoaded(t, plain)
		l.wantLoaded(t, packed)
		checkClean(t, l.node, "k8s.io")
	}
}
