// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestLoadFileSystemImage has the bundles on a read-only file system, as provider images have them: in every format they are
// loaded, are left alone at the next start, and are noticed when another image of the file system is in the place of the first,
// though hardly a file of it has another size, time or inode: reproducible builds make such.
func TestLoadFileSystemImage(t *testing.T) {
	daemon.RequireRoot(t)
	mounted := openDir(t)
	l := newLoadingOf(t, daemon.Options{Level: "info"}, mounted)

	bundles := func(seed uint64) (dir string, images []image.Named) {
		dir = t.TempDir()
		for i, f := range formats {
			img := oneLayer(seed+uint64(i), fmt.Sprintf("quay.io/shipped:%d", i))
			f.write(t, filepath.Join(dir, f.name), []image.Named{img})
			images = append(images, img)
		}
		return dir, images
	}
	loaded := func(images []image.Named) {
		t.Helper()
		for _, img := range images {
			ref := img.Names[0]
			within(t, 15*time.Second, ref, func() bool { return l.isPinned(t, ref) && img.Compare(l.Rootfs(t, "k8s.io", ref)) == nil })
		}
		l.wantNoErrors(t)
	}

	dir, first := bundles(600)
	unmount := mountErofs(t, dir, mounted)
	l.start(t)
	loaded(first)
	before := l.blobs(t)
	l.restart(t)
	loaded(first)
	l.wantBlobs(t, before)

	unmount() // while containerd runs
	l.Stop(t)
	dir, second := bundles(700)
	mountErofs(t, dir, mounted)
	l.start(t)
	loaded(second)
}

// mountErofs makes a file system of what is in dir, with all times alike, and mounts it.
func mountErofs(t *testing.T, dir, target string) (unmount func()) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "bundles.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)))
	}); err != nil {
		t.Fatal(err)
	}
	w := erofs.Create(file, erofs.WithBuildTime(1, 0), erofs.WithTempDir(t.TempDir()))
	if err := errors.Join(w.CopyFrom(os.DirFS(dir)), w.Close(), file.Sync()); err != nil {
		t.Fatal(err)
	}
	err = (&mount.Mount{Type: "erofs", Source: file.Name(), Options: []string{"loop", "ro"}}).Mount(target)
	if errors.Is(err, unix.ENODEV) {
		t.Skip("this kernel has no erofs")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	return func() {
		t.Helper()
		within(t, 10*time.Second, "file system that is not busy", func() bool { return unix.Unmount(target, 0) == nil })
	}
}
