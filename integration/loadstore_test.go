// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
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
			l.runBegun(t)
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

// TestReadOnlyForAWhile has containerd's root read-only in the middle of a load, and writable again under the running daemon
// (L7): what has been opened goes on, as the database, and nothing new can be made. The same daemon loads the image afterwards,
// by itself.
func TestReadOnlyForAWhile(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	for name, pack := range map[string]func([]byte) []byte{"a.tar": slices.Clone[[]byte], "a.tgz": image.Gzip} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLoading(t, "", daemon.Options{Level: "info"})
			img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", 3, 20<<20)), image.NewLayer(image.Random("b", 4, 20<<20))}})
			path := l.put(t, name, pack(image.Tar(image.OCI([]image.Named{img.Name("quay.io/a:1")}))))
			berth(t, "--version") // so that it is built
			var writable func()
			l.runLoading(t, func(before int) {
				if writable != nil {
					writable()
				}
				within(t, 20*time.Second, "load", func() bool { return l.begun() || l.rounds() > before })
				writable = readOnly(t, l.Root)
			})
			var out string
			within(t, 10*time.Second, "load that fails", func() bool {
				text, good := l.status(t)
				out = text
				return !good
			})
			if !strings.Contains(section(out, path), "read-only file system") {
				t.Errorf("got status\n%s\nwant that the file system is read-only", out)
			}
			if got := targets(t, l.Daemon, "k8s.io"); len(got) > 0 {
				t.Errorf("got images %v, want none that is not whole", got)
			}
			writable()
			within(t, 40*time.Second, "load after the disk was writable again", func() bool {
				return targets(t, l.Daemon, "k8s.io")["quay.io/a:1"] == img.Digest
			})
			l.waitGood(t)
			if err := img.Compare(l.Rootfs(t, "k8s.io", "quay.io/a:1")); err != nil {
				t.Error(err)
			}
			l.wantContent(t, img)
			checkClean(t, l.node, "k8s.io")
		})
	}
}

// waitGood waits until status finds no fault.
func (l loading) waitGood(t testing.TB) {
	t.Helper()
	within(t, 10*time.Second, "good status", func() bool { _, good := l.status(t); return good })
}

// wantContent checks that the blobs of the images are there, byte for byte, and no others.
func (l loading) wantContent(t testing.TB, images ...*image.Image) {
	t.Helper()
	l.collect(t)
	got := l.blobs(t)
	for _, img := range images {
		for d, data := range img.Blobs() {
			if there, err := os.ReadFile(l.blob(d)); err != nil || !bytes.Equal(there, data) {
				t.Errorf("got %d bytes %v of blob %s, want its %d", len(there), err, d, len(data))
			}
			delete(got, d)
		}
	}
	if len(got) > 0 {
		t.Errorf("got blobs %v, want those of %d images alone", slices.Collect(maps.Keys(got)), len(images))
	}
}

// begun reports whether a load writes blobs.
func (l loading) begun() bool {
	ingests, _ := filepath.Glob(filepath.Join(l.Root, "io.containerd.content.v1.content/ingest/*/data"))
	return len(ingests) > 0
}

// readOnly makes a directory read-only for whatever is opened or made in it, until writable is called.
func readOnly(t *testing.T, dir string) (writable func()) {
	t.Helper()
	elsewhere := t.TempDir() // where nobody opens a file before it is read-only
	mount := func(source, target string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, "", flags, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
	}
	mount(dir, elsewhere, unix.MS_BIND)
	mount("", elsewhere, unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY)
	mount(elsewhere, dir, unix.MS_BIND)
	return func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
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

// age makes the files of a node that does not run, and what its database and its content store say of when they were made, so many
// years younger. It returns the paths of the times in the database.
func (l loading) age(t *testing.T, years int) (aged []string) {
	t.Helper()
	db, err := bolt.Open(l.metadata(), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return ageBucket(b, string(name), years, &aged) })
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	texts, _ := filepath.Glob(filepath.Join(l.Root, "io.containerd.content.v1.content/ingest/*/*edat")) // startedat, updatedat
	for _, path := range texts {
		var at time.Time
		text, err := os.ReadFile(path)
		if err == nil {
			err = at.UnmarshalText(text)
		}
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, at.AddDate(years, 0, 0).Format(time.RFC3339Nano))
	}
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
	return aged
}
