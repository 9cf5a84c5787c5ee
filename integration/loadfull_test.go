// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
				place(t, filepath.Join(l.folder, "c.tar"), image.Tar(image.OCI([]image.Named{small(7).Name("quay.io/c:1")})))
			}
			within(t, 30*time.Second, "load after there was room", func() bool { _, good := l.status(t); return good })
			if err := big.Compare(l.Rootfs(t, "k8s.io", "quay.io/big:1")); err != nil {
				t.Error(err)
			}
			checkClean(t, l.node, "k8s.io")
		})
	}
}

// TestDiskOfUnpackedLayers loads an image onto a disk on which there is room for its upper layer alone. The lower one is unpacked
// for another image, and without keep_layers its blob is not needed.
func TestDiskOfUnpackedLayers(t *testing.T) {
	daemon.RequireRoot(t)
	shared := image.NewLayer(image.Random("shared", 8, 12<<20))
	for name, pack := range map[string]func([]byte) []byte{"a.tar": bytes.Clone, "a.tar.gz": image.Gzip} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := powercut.New(t, 64<<20)
			l := newLoading(t, "", daemon.Options{Root: filepath.Join(disk.Dir, "root"), Level: "info"}, "keep_layers = false")
			a, b := threeLayers(shared, 9, "quay.io/a:1"), threeLayers(shared, 11, "quay.io/b:1")
			l.put(t, name, pack(image.Tar(image.OCI([]image.Named{a}))))
			l.start(t)
			within(t, 10*time.Second, "content store without layers", func() bool { return len(l.blobs(t)) == 2 })
			fill(t, disk.Dir, filepath.Join(disk.Dir, "ballast"), 3<<20)
			round := l.rounds()
			place(t, filepath.Join(l.folder, "b"+filepath.Ext(name)), pack(image.Tar(image.OCI([]image.Named{b}))))
			l.waitRound(t, round)
			if out, good := l.status(t); !good {
				t.Fatalf("got status\n%s\nwant the image loaded", out)
			}
			l.wantLoaded(t, b)
		})
	}
}

// TestDiskFullAnywhere loads one image after another where there is less room than each takes, from none to a little more than
// enough, so that it ends wherever something is written (L5). Each time the error is clear, nothing
// of the image stays, and when there is room the same daemon loads it.
func TestDiskFullAnywhere(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	const sizes, plenty = 20, 128 << 20
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", plenty)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
	leave := func(room int64) {
		t.Helper()
		var stat unix.Statfs_t
		err := unix.Statfs(dir, &stat)
		if err == nil {
			used := int64(stat.Blocks-stat.Bfree) * stat.Bsize
			err = unix.Mount("", dir, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used+room))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	l := newLoading(t, "", daemon.Options{Root: filepath.Join(dir, "root"), Level: "info"})
	l.start(t)
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	failed := 0
	for i := range sizes {
		img := image.New(image.Config{Layers: []image.Layer{
			image.NewLayer(image.Random("first", uint64(2300+i), 1<<20), image.File{Path: "packs", Data: bytes.Repeat([]byte{byte(i)}, 1<<20)}),
			image.NewLayer(image.Random("second", uint64(2400+i), 200_000)),
		}})
		const takes = 4 << 20
		room := int64(i) * takes / (sizes - 2)
		name := fmt.Sprintf("quay.io/full/%d:1", i)
		data := image.Tar(image.OCI([]image.Named{img.Name(name)}))
		if i%2 == 1 {
			data = image.Gzip(data)
		}
		leave(room)
		before := free(t, dir)
		round := l.rounds()
		path := l.put(t, fmt.Sprintf("%02d.tar", i), data)
		l.waitRound(t, round)
		if out, good := l.status(t); !good {
			failed++
			if text := section(out, path); !strings.Contains(text, "no space left on device") || !strings.Contains(text, name) {
				t.Errorf("room of %d bytes: got status\n%s\nwant that there is no space for %s", room, text, name)
			}
			if got := targets(t, l.Daemon, "k8s.io")[name]; got != "" {
				t.Errorf("room of %d bytes: got %s listed", room, name)
			}
			if left, err := l.Client().LeasesService().List(ctx); err != nil || len(left) != 0 {
				t.Errorf("room of %d bytes: got leases %v %v, want none", room, left, err)
			}
			if left, err := l.Client().ContentStore().ListStatuses(ctx); err != nil || len(left) != 0 {
				t.Errorf("room of %d bytes: got ingests %v %v, want none", room, left, err)
			}
			if left := before - free(t, dir); left > 1<<20 {
				t.Errorf("room of %d bytes: got %d bytes left of the load, want at most 1 MiB", room, left)
			}
			leave(plenty)
			round := l.rounds()
			l.put(t, filepath.Base(path), data) // it would be tried again after a while, too
			l.waitRound(t, round)
			if out, good := l.status(t); !good {
				t.Errorf("more room than %d bytes: got status\n%s", room, section(out, path))
			}
		} else {
			leave(plenty)
		}
		if err := img.Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
			t.Errorf("room of %d bytes: %v", room, err)
		}
	}
	t.Logf("%d of %d failed", failed, sizes)
	if failed < sizes/2 || failed == sizes {
		t.Errorf("got %d of %d sizes too small, want most of them", failed, sizes)
	}
	checkClean(t, l.node, "k8s.io")
}

// TestBombInLayer loads an image with a layer that is a MiB and unpacks into a GiB (E44). What it unpacks into nobody knows before, so
// that the disk is what bounds it: what was written is given back, the image is not listed and not tried again as long as there is no
// more room, and others are loaded.
func TestBombInLayer(t *testing.T) {
	daemon.RequireRoot(t)
	for _, tc := range []struct {
		name, mediaType string
		pack            func([]byte) []byte
	}{{"gzip", ocispec.MediaTypeImageLayerGzip, gzipBest}, {"zstd", ocispec.MediaTypeImageLayerZstd, image.Zstd}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			disk := powercut.New(t, 96<<20)
			l := newLoading(t, "", daemon.Options{Root: filepath.Join(disk.Dir, "root"), Level: "info"})
			l.start(t)
			before := free(t, disk.Dir)
			data := bomb(tc.pack)
			layer := descriptorOf(tc.mediaType, data)
			config := encoded(t, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
				RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("nobody gets that far")}}})
			manifest := encoded(t, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest,
				Config: descriptorOf(ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{layer}})
			blobs := map[digest.Digest][]byte{digest.FromBytes(config): config, layer.Digest: data}
			round := l.rounds()
			path := l.put(t, "bomb.tar", namedArchive(t, "quay.io/bomb:1", descriptorOf(ocispec.MediaTypeImageManifest, manifest), manifest, blobs))
			least := leastOf(t, disk.Dir, func() { l.waitRound(t, round) })
			if least > before/4 {
				t.Errorf("got %d of %d bytes free at least, want a bomb that fills the disk", least, before)
			}
			out, good := l.status(t)
			if text := section(out, path); good || !strings.Contains(text, "quay.io/bomb:1") || !strings.Contains(text, "no space left on device") {
				t.Errorf("got status\n%s\nwant no room for quay.io/bomb:1", out)
			}
			if left := before - free(t, disk.Dir); left > 2<<20 {
				t.Errorf("got %d bytes left of the bomb, want at most 2 MiB", left)
			}
			if names := targets(t, l.Daemon, "k8s.io"); len(names) > 0 {
				t.Errorf("got images %v, want none", names)
			}
			checkClean(t, l.node, "k8s.io")

			other := oneLayer(2200, "quay.io/other:1")
			least = leastOf(t, disk.Dir, func() {
				round := l.rounds()
				l.bundle(t, "other.tar", other)
				l.waitRound(t, round)
			})
			if least < before-8<<20 {
				t.Errorf("got %d of %d bytes free at least in the next round, want no second try", least, before)
			}
			l.becomesLoaded(t, "quay.io/other:1", other.Image)
		})
	}
}

// leastOf is how little of a disk was free while something was done.
func leastOf(t *testing.T, dir string, do func()) int64 {
	t.Helper()
	done, lowest := make(chan struct{}), make(chan int64)
	go func() {
		var least int64 = math.MaxInt64
		for {
			var stat unix.Statfs_t
			if err := unix.Statfs(dir, &stat); err != nil {
				t.Error(err)
			}
			least = min(least, int64(stat.Bavail)*stat.Bsize)
			select {
			case <-done:
				lowest <- least
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	do()
	close(done)
	return <-lowest
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
