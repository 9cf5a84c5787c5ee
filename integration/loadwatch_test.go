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
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/powercut"
)

// bundleOf is a bundle with one image, of a name.
func bundleOf(seed uint64, name string) (*image.Image, []byte) {
	img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("data", seed, 2<<20))}})
	return img, image.Tar(image.OCI([]image.Named{img.Name(name)}))
}

// becomesLoaded waits until an image is there, and pinned, and compares it.
func (l loading) becomesLoaded(t *testing.T, name string, img *image.Image) {
	t.Helper()
	within(t, 15*time.Second, name, func() bool { return targets(t, l.Daemon, "k8s.io")[name] == img.Digest })
	if !l.isPinned(t, name) {
		t.Errorf("%s is not pinned", name)
	}
	if err := img.Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func (l loading) isPinned(t *testing.T, name string) bool {
	t.Helper()
	for _, i := range recorded(t, l.Daemon, "k8s.io") {
		if i.Name == name {
			return i.Labels["io.cri-containerd.pinned"] == "pinned"
		}
	}
	return false
}

// wantNoErrors checks that nothing was said to be wrong with a bundle.
func (l loading) wantNoErrors(t *testing.T) {
	t.Helper()
	if lines := l.Log.Lines("level=error", "bundle="); len(lines) > 0 {
		t.Errorf("got errors, want none:\n%s", strings.Join(lines, "\n"))
	}
}

// TestWatch changes the folders of bundles of a containerd that runs, in the ways that people and machines do.
func TestWatch(t *testing.T) {
	daemon.RequireRoot(t)
	above := openDir(t)
	later, mounted := filepath.Join(above, "later", "still"), openDir(t)
	l := newLoadingOf(t, daemon.Options{Level: "info"}, openDir(t), later, mounted)
	l.start(t)

	t.Run("renamed into place", func(t *testing.T) {
		img, bundle := bundleOf(1, "quay.io/renamed:1")
		place(t, filepath.Join(l.folder, "renamed.tar"), bundle)
		l.becomesLoaded(t, "quay.io/renamed:1", img)
		l.wantNoErrors(t)
	})
	for name, pack := range map[string]func([]byte) []byte{"tar": slices.Clone[[]byte], "tar.gz": image.Gzip} {
		t.Run("copied slowly "+name, func(t *testing.T) { // L10
			img, bundle := bundleOf(uint64(10+len(name)), "quay.io/slow:"+name)
			copySlowly(t, filepath.Join(l.folder, "slow."+name), pack(bundle))
			l.becomesLoaded(t, "quay.io/slow:"+name, img)
			l.wantNoErrors(t)
		})
	}
	t.Run("layout copied slowly, its index first", func(t *testing.T) {
		img, _ := bundleOf(20, "")
		entries := image.OCI([]image.Named{img.Name("quay.io/layout:1")})
		for _, e := range entries {
			image.WriteFile(t, filepath.Join(l.folder, "layout", e.Name), e.Data)
			time.Sleep(300 * time.Millisecond)
		}
		l.becomesLoaded(t, "quay.io/layout:1", img)
		l.wantNoErrors(t)
	})
	t.Run("layout of a large blob, its index first", func(t *testing.T) {
		img, _ := bundleOf(26, "")
		for _, e := range image.OCI([]image.Named{img.Name("quay.io/large:1")}) {
			path := filepath.Join(l.folder, "large", e.Name)
			if !strings.HasSuffix(e.Name, img.Layers[0].Digest.Encoded()) {
				image.WriteFile(t, path, e.Data)
				continue
			}
			for grown := range 5 {
				image.WriteFile(t, path, e.Data[:len(e.Data)*(grown+1)/5])
				time.Sleep(time.Second)
			}
		}
		l.becomesLoaded(t, "quay.io/large:1", img)
		l.wantNoErrors(t)
	})
	t.Run("layout written anew", func(t *testing.T) {
		layout := filepath.Join(l.folder, "grows")
		first, _ := bundleOf(21, "")
		image.WriteLayout(t, layout, image.OCI([]image.Named{first.Name("quay.io/grows:1")}))
		l.becomesLoaded(t, "quay.io/grows:1", first)
		second, _ := bundleOf(22, "")
		image.WriteLayout(t, layout, image.OCI([]image.Named{first.Name("quay.io/grows:1"), second.Name("quay.io/grows:2")}))
		l.becomesLoaded(t, "quay.io/grows:2", second)
		l.wantNoErrors(t)
	})
	t.Run("replaced behind a link", func(t *testing.T) {
		store := filepath.Join(above, "store")
		first, bundle := bundleOf(23, "quay.io/linked:1")
		image.WriteFile(t, filepath.Join(store, "a.tar"), bundle)
		if err := os.Symlink(filepath.Join(store, "a.tar"), filepath.Join(l.folder, "linked.tar")); err != nil {
			t.Fatal(err)
		}
		l.becomesLoaded(t, "quay.io/linked:1", first)
		second, bundle := bundleOf(24, "quay.io/linked:2")
		place(t, filepath.Join(store, "a.tar"), bundle)
		l.becomesLoaded(t, "quay.io/linked:2", second)
		within(t, 10*time.Second, "former image without a pin", func() bool { return !l.isPinned(t, "quay.io/linked:1") })
		l.wantNoErrors(t)
	})
	t.Run("removed", func(t *testing.T) {
		if err := os.Remove(filepath.Join(l.folder, "renamed.tar")); err != nil {
			t.Fatal(err)
		}
		within(t, 10*time.Second, "image without a pin", func() bool { return !l.isPinned(t, "quay.io/renamed:1") })
		if targets(t, l.Daemon, "k8s.io")["quay.io/renamed:1"] == "" {
			t.Error("got no image, want it without a pin")
		}
	})
	t.Run("folder that appears later", func(t *testing.T) {
		img, bundle := bundleOf(3, "quay.io/later:1")
		image.WriteFile(t, filepath.Join(later, "a.tar"), bundle)
		l.becomesLoaded(t, "quay.io/later:1", img)
	})
	for name, mount := range map[string]func(*testing.T, []byte) error{ // DESIGN 5.21
		"bind": func(t *testing.T, bundle []byte) error {
			from := openDir(t)
			image.WriteFile(t, filepath.Join(from, "a.tar"), bundle)
			return unix.Mount(from, mounted, "", unix.MS_BIND, "")
		},
		"tmpfs": func(t *testing.T, bundle []byte) error {
			if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, "mode=755"); err != nil {
				return err
			}
			time.Sleep(time.Second) // the loader has seen it empty
			image.WriteFile(t, filepath.Join(mounted, "a.tar"), bundle)
			return nil
		},
		"read-only disk": func(t *testing.T, bundle []byte) error {
			disk := powercut.New(t, 64<<20)
			image.WriteFile(t, filepath.Join(disk.Dir, "a.tar"), bundle)
			return errors.Join(unix.Mount("", disk.Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""), unix.Mount(disk.Dir, mounted, "", unix.MS_BIND, ""))
		},
	} {
		t.Run("mounted over the folder: "+name, func(t *testing.T) {
			ref := "quay.io/mounted:" + strings.ReplaceAll(name, " ", "-")
			img, bundle := bundleOf(uint64(100+len(name)), ref)
			unmount := func() error { return unix.Unmount(mounted, unix.MNT_DETACH) }
			t.Cleanup(func() { _ = unmount() })
			if err := mount(t, bundle); err != nil {
				t.Fatal(err)
			}
			l.becomesLoaded(t, ref, img)
			if err := unmount(); err != nil {
				t.Fatal(err)
			}
			within(t, 10*time.Second, "image without a pin", func() bool { return !l.isPinned(t, ref) })
		})
	}
	l.wantNoErrors(t)
	checkClean(t, l.node, "k8s.io")
}

// TestUnmount unmounts a folder of bundles that were loaded, and mounts it again: nothing keeps its file system busy, and what is
// on it is there again.
func TestUnmount(t *testing.T) {
	daemon.RequireRoot(t)
	mounted, disk := openDir(t), powercut.New(t, 64<<20)
	l := newLoadingOf(t, daemon.Options{CRI: true}, mounted)
	refs := map[string]image.Named{}
	for i, f := range formats {
		img := oneLayer(uint64(370+i), fmt.Sprintf("quay.io/unmounted:%d", i))
		f.write(t, filepath.Join(disk.Dir, fmt.Sprint(i)), []image.Named{img})
		refs[img.Names[0]] = img
	}
	mount := func() {
		t.Helper()
		if err := unix.Mount(disk.Dir, mounted, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	mount()
	t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) })
	l.start(t)
	for range 2 {
		for ref := range refs {
			within(t, 10*time.Second, ref, func() bool { return l.isPinned(t, ref) })
		}
		l.Ctr(t, "-n", "k8s.io", "images", "rm", "--sync", "quay.io/unmounted:0", "quay.io/unmounted@"+refs["quay.io/unmounted:0"].Digest.String(), refs["quay.io/unmounted:0"].ConfigDigest.String())
		if err := pullCRI(t, l.Daemon, "quay.io/unmounted:0"); err != nil {
			t.Errorf("pull from the bundle: %v", err)
		}
		within(t, 10*time.Second, "folder that is not busy", func() bool { return unix.Unmount(mounted, 0) == nil })
		for ref := range refs {
			within(t, 10*time.Second, ref+" without a pin", func() bool { return !l.isPinned(t, ref) })
		}
		mount()
	}
}

// TestRemount unmounts the file system of a folder and mounts it again before anybody could look, as `systemctl restart` of a mount
// does: what is copied into the folder after that is seen.
func TestRemount(t *testing.T) {
	daemon.RequireRoot(t)
	disk := powercut.New(t, 64<<20)
	folder := filepath.Join(disk.Dir, "images")
	l := newLoadingOf(t, daemon.Options{Level: "info"}, folder)
	img, bundle := bundleOf(50, "quay.io/before:1")
	image.WriteFile(t, filepath.Join(folder, "before.tar"), bundle)
	l.start(t)
	l.becomesLoaded(t, "quay.io/before:1", img)
	l.Signal(syscall.SIGSTOP)
	disk.Restore(t)
	l.Signal(syscall.SIGCONT)
	time.Sleep(time.Second) // what the mount alone brings about is over
	img, bundle = bundleOf(51, "quay.io/after:1")
	place(t, filepath.Join(folder, "after.tar"), bundle)
	l.becomesLoaded(t, "quay.io/after:1", img)
}

// copySlowly writes a file as a copy over a network does.
func copySlowly(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for part := range slices.Chunk(data, len(data)/10+1) {
		if _, err := f.Write(part); err != nil {
			t.Fatal(err)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// TestLoadBesideCopy copies a bundle for a long time (L10): others are loaded meanwhile, and what it may replace stays pinned
// until it is there.
func TestLoadBesideCopy(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{Level: "info"})
	former, bundle := bundleOf(50, "quay.io/former:1")
	place(t, filepath.Join(l.folder, "former.tar"), bundle)
	l.start(t)
	l.becomesLoaded(t, "quay.io/former:1", former)

	slow, bundle := bundleOf(51, "quay.io/slow:1")
	f, err := os.Create(filepath.Join(l.folder, "a-slow.tar"))
	if err != nil {
		t.Fatal(err)
	}
	rest, finish, copied := bundle, make(chan struct{}), make(chan error)
	go func() {
		for {
			n := min(len(rest)-1, 1000)
			if _, err := f.Write(rest[:n]); err != nil {
				copied <- err
				return
			}
			rest = rest[n:]
			select {
			case <-finish:
				_, err := f.Write(rest)
				copied <- errors.Join(err, f.Close())
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	status := func() string { out, _ := l.status(t); return out }
	within(t, 10*time.Second, "bundle that is being copied", func() bool { return strings.Contains(status(), "a-slow.tar: being copied") })
	other, bundle := bundleOf(52, "quay.io/other:1")
	place(t, filepath.Join(l.folder, "other.tar"), bundle)
	l.becomesLoaded(t, "quay.io/other:1", other)
	if err := os.Remove(filepath.Join(l.folder, "former.tar")); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "status without the former bundle", func() bool { return !strings.Contains(status(), "former.tar:") })
	if out, good := l.status(t); !good || !strings.Contains(out, "a-slow.tar: being copied") || !l.isPinned(t, "quay.io/former:1") {
		t.Errorf("got pinned %t and status\n%s\nwant the former image pinned while its successor may be copied", l.isPinned(t, "quay.io/former:1"), out)
	}
	close(finish)
	if err := <-copied; err != nil {
		t.Fatal(err)
	}
	l.becomesLoaded(t, "quay.io/slow:1", slow)
	within(t, 10*time.Second, "former image without a pin", func() bool { return !l.isPinned(t, "quay.io/former:1") })
	l.wantNoErrors(t)
	checkClean(t, l.node, "k8s.io")
}
