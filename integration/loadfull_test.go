// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/powercut"
)

// TestDiskFull loads a bundle for which there is no room (REL-15, L5), which is known before anything is written, or comes
// out in the middle. The error says what is needed, nothing of it stays, other bundles are loaded, and so is this one when
// there is room.
func TestDiskFull(t *testing.T) {
	daemon.RequireRoot(t)
	small := func(seed uint64) *image.Image {
		return image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("small", seed, 20_000))}})
	}
	packs := image.NewLayer(image.File{Path: "packs", Data: bytes.Repeat([]byte("well"), 5<<20)}) // into next to nothing
	for _, tc := range []struct {
		name, file string
		pack       func([]byte) []byte
		layers     []image.Layer
		byItself   bool
	}{
		{"known before", "big.tar", nil, []image.Layer{image.NewLayer(image.Random("big", 1, 12<<20))}, true},
		{"known before, compressed", "big.tgz", image.Gzip, []image.Layer{image.NewLayer(image.Random("big", 2, 12<<20))}, false},
		{"in the middle", "big.tar", nil, []image.Layer{image.NewLayer(image.Random("first", 3, 3<<20)), packs}, false},
		{"in the middle, compressed", "big.tgz", image.Gzip, []image.Layer{image.NewLayer(image.Random("first", 4, 3<<20)), packs}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			disk := powercut.New(t, 64<<20)
			l := newLoading(t, "", daemon.Options{Root: filepath.Join(disk.Dir, "root"), Level: "info"})
			image.WriteFile(t, filepath.Join(l.folder, "a.tar"), image.Tar(image.OCI([]image.Named{small(5).Name("quay.io/a:1")})))
			l.start(t)
			ballast := filepath.Join(disk.Dir, "ballast")
			fill(t, disk.Dir, ballast, 13<<20)
			before := free(t, disk.Dir)
			round := l.rounds()

			big := image.New(image.Config{Layers: tc.layers})
			bundle := image.Tar(image.OCI([]image.Named{big.Name("quay.io/big:1")}))
			if tc.pack != nil {
				bundle = tc.pack(bundle)
			}
			path := filepath.Join(l.folder, tc.file)
			place(t, path, bundle)
			l.waitRound(t, round)
			out, good := l.status(t)
			if good {
				t.Fatalf("got status\n%s\nwant no room", out)
			}
			for _, text := range []string{path, "quay.io/big:1", "no space left on device", "MiB are needed", "MiB are free"} {
				if lines := l.Log.Lines("level=error", "big:1", text); !strings.Contains(out, text) || len(lines) != 1 {
					t.Errorf("got status\n%s\nand %d lines of the log, want %q in both, once", out, len(lines), text)
				}
			}
			ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
			if left, err := l.Client().LeasesService().List(ctx); err != nil || len(left) != 0 {
				t.Errorf("got leases %v %v, want none", left, err)
			}
			if left, err := l.Client().ContentStore().ListStatuses(ctx); err != nil || len(left) != 0 {
				t.Errorf("got ingests %v %v, want none", left, err)
			}
			if names := targets(t, l.Daemon, "k8s.io"); names["quay.io/big:1"] != "" {
				t.Error("got quay.io/big:1 listed")
			}
			if left := before - free(t, disk.Dir); left > 2<<20 {
				t.Errorf("got %d bytes left of the load, want at most 2 MiB", left)
			}

			place(t, filepath.Join(l.folder, "b.tar"), image.Tar(image.OCI([]image.Named{small(6).Name("quay.io/b:1")})))
			within(t, 10*time.Second, "other bundle", func() bool { return targets(t, l.Daemon, "k8s.io")["quay.io/b:1"] != "" })

			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			if !tc.byItself { // it would be tried again after a while, too
				write(t, filepath.Join(l.folder, ".touched"), "")
			}
			within(t, 30*time.Second, "load after there was room", func() bool { _, good := l.status(t); return good })
			if err := big.Compare(l.Rootfs(t, "k8s.io", "quay.io/big:1")); err != nil {
				t.Error(err)
			}
			checkClean(t, l.node, "k8s.io")
		})
	}
}

// TestNoInodes loads a bundle for whose files there are no inodes (L6), though there is space.
func TestNoInodes(t *testing.T) {
	daemon.RequireRoot(t)
	disk := powercut.New(t, 64<<20, "-N", "4096")
	l := newLoading(t, "", daemon.Options{Root: filepath.Join(disk.Dir, "root"), Level: "info"})
	l.start(t)
	inodes := func() int {
		var stat unix.Statfs_t
		if err := unix.Statfs(disk.Dir, &stat); err != nil {
			t.Fatal(err)
		}
		return int(stat.Ffree)
	}
	ballast := filepath.Join(disk.Dir, "ballast")
	for i := 0; inodes() > 300; i++ {
		image.WriteFile(t, filepath.Join(ballast, fmt.Sprint(i)), nil)
	}
	before := inodes()
	var files []image.File
	for i := range 500 {
		files = append(files, image.File{Path: fmt.Sprintf("files/%d", i), Data: []byte("small")})
	}
	many := image.New(image.Config{Layers: []image.Layer{image.NewLayer(files...)}})
	small := image.Small("linux/amd64", 7)
	path := filepath.Join(l.folder, "many.tar")
	round := l.rounds()
	place(t, path, image.Tar(image.OCI([]image.Named{many.Name("quay.io/many:1")})))
	l.waitRound(t, round)
	out, good := l.status(t)
	for _, text := range []string{path, "quay.io/many:1", "no space left on device", "inodes and"} {
		if lines := l.Log.Lines("level=error", "many:1", text); good || !strings.Contains(out, text) || len(lines) != 1 {
			t.Errorf("got status\n%s\nand %d lines of the log, want %q in both, once", out, len(lines), text)
		}
	}
	if left := before - inodes(); left > 10 {
		t.Errorf("got %d inodes left of the load, want at most 10", left)
	}
	place(t, filepath.Join(l.folder, "small.tar"), image.Tar(image.OCI([]image.Named{small.Name("quay.io/small:1")})))
	within(t, 10*time.Second, "other bundle", func() bool { return targets(t, l.Daemon, "k8s.io")["quay.io/small:1"] != "" })
	if err := os.RemoveAll(ballast); err != nil { // which is no space: its files are empty
		t.Fatal(err)
	}
	within(t, 40*time.Second, "load after there were inodes", func() bool { _, good := l.status(t); return good })
	if err := many.Compare(l.Rootfs(t, "k8s.io", "quay.io/many:1")); err != nil {
		t.Error(err)
	}
	checkClean(t, l.node, "k8s.io")
}

// place puts a bundle into a folder at once.
func place(t testing.TB, path string, data []byte) {
	t.Helper()
	dir, name := filepath.Split(path)
	if err := os.Rename(image.WriteFile(t, filepath.Join(dir, "."+name), data), path); err != nil {
		t.Fatal(err)
	}
}

// fill makes a file that leaves so many bytes of a disk.
func fill(t testing.TB, dir, path string, leave int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, free(t, dir)-leave); err != nil {
		t.Fatal(fmt.Errorf("fill disk: %w", err))
	}
}

// free is how many bytes of a disk are free, after what was written is there.
func free(t testing.TB, dir string) int64 {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var stat unix.Statfs_t
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := unix.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	return int64(stat.Bavail) * stat.Bsize
}
