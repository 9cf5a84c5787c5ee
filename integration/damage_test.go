// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// REL-05, L16: what a power cut under stock left of unpacked files is found, and unpacked again from layers that are whole.
func TestDamagedSnapshots(t *testing.T) {
	img := image.New(image.Config{Layers: []image.Layer{
		image.NewLayer(image.Random("usr/lib/low", 1, 60000), image.File{Path: "etc/empty"}),
		image.NewLayer(image.Random("usr/lib/high", 2, 60000), image.File{Path: "usr/lib/link", Mode: fs.ModeSymlink, Data: []byte("high")}),
	}})
	const name = "registry.k8s.io/damaged:1"
	archive := image.Tar(image.OCI([]image.Named{img.Name(name)}))

	t.Run("by stock, of an image that no bundle has", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{Root: shortDir(t)})
		stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock), Root: l.Root})
		stock.Ctr(t, "-n", "other", "images", "import", image.WriteFile(t, filepath.Join(t.TempDir(), "a.tar"), archive))
		stock.Stop(t)
		zero(t, l.Root, "usr/lib/high", func(path string) error { return os.Truncate(path, 30000) }) // short, not empty
		l.start(t)
		within(t, time.Minute, "line of the mending", func() bool { return len(l.Log.Lines("unpacked again", name)) == 1 })
		if err := img.Compare(l.Rootfs(t, "other", name)); err != nil {
			t.Error(err)
		}
		// What was compared once is known to be synced, and is not read again.
		l.restart(t)
		if lines := l.Log.Lines("unpacked again"); len(lines) != 1 {
			t.Errorf("got %q, want one line", lines)
		}
	})

	t.Run("by stock, which ran while Berth was away", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{Root: shortDir(t), Level: "debug"})
		l.start(t)
		l.waitVerified(t)
		l.bundle(t, "b.tar", oneLayer(5, "registry.k8s.io/own:1"))
		looks := func() int { return len(l.Log.Lines("removed snapshot", "berth-look")) }
		l.restart(t)
		before := looks()
		l.restart(t)
		if got := looks() - before; got != 0 {
			t.Errorf("got %d looks at what is unpacked after an end and a start, want none", got)
		}
		l.Stop(t)
		stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock), Root: l.Root})
		stock.Ctr(t, "-n", "other", "images", "import", image.WriteFile(t, filepath.Join(t.TempDir(), "a.tar"), archive))
		stock.Stop(t)
		zero(t, l.Root, "usr/lib/high", func(path string) error { return os.Truncate(path, 0) })
		l.start(t)
		within(t, 10*time.Second, "line of the mending", func() bool { return len(l.Log.Lines("unpacked again", name)) == 1 })
		if err := img.Compare(l.Rootfs(t, "other", name)); err != nil {
			t.Error(err)
		}
	})

	t.Run("by hand, of an image of a bundle, and the daemon was killed", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{})
		image.WriteFile(t, filepath.Join(l.folder, "a.tar"), archive)
		l.start(t)
		l.Kill()
		zero(t, l.Root, "usr/lib/low", func(path string) error { return os.Truncate(path, 0) })
		l.start(t)
		if out, good := l.status(t); !good || !strings.Contains(out, name+" "+img.Digest.String()+": repaired") {
			t.Errorf("got status\n%s", out)
		}
		if err := img.Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
			t.Error(err)
		}
	})

	t.Run("of a name that is not UTF-8, found by status --verify", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{})
		odd := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("etc/\xff", 3, 60000))}})
		l.bundle(t, "odd.tar", odd.Name("registry.k8s.io/odd:1"))
		l.start(t)
		l.waitVerified(t)
		zero(t, l.Root, "etc/\xff", func(path string) error { return os.WriteFile(path, make([]byte, 60000), 0o644) })
		if out, errs, code := berth(t, "status", "--verify", "--address", l.Address); code != 0 || !strings.Contains(out, "such as etc/\ufffd; they were unpacked again\n") {
			t.Errorf("got status %d\n%s%s\nwant that the file is unpacked again", code, out, errs)
		}
	})

	t.Run("with zeros of the same size, found by status --verify", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{})
		image.WriteFile(t, filepath.Join(l.folder, "a.tar"), archive)
		l.start(t)
		l.waitVerified(t)
		zero(t, l.Root, "usr/lib/high", func(path string) error { return os.WriteFile(path, make([]byte, 60000), 0o644) })
		out, errs, code := berth(t, "status", "--verify", "--address", l.Address)
		want := fmt.Sprintf("namespace k8s.io: image %s: layer %s had 1 damaged files, such as usr/lib/high; they were unpacked again\n", name, img.Layers[1].Digest)
		if code != 0 || !strings.HasSuffix(out, want) {
			t.Errorf("got status %d\n%s%s\nwant at its end\n%s", code, out, errs, want)
		}
		if err := img.Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
			t.Error(err)
		}
		if out, _, _ := berth(t, "status", "--verify", "--address", l.Address); !strings.HasSuffix(out, "everything that is unpacked is as its layers are\n") {
			t.Errorf("got\n%s", out)
		}
	})

	t.Run("by stock, of a layer that many images of a bundle have", func(t *testing.T) {
		var files []image.File
		for i := range 1000 {
			files = append(files, image.Random(fmt.Sprintf("usr/lib/%d", i), uint64(i), 1000), image.File{Path: fmt.Sprintf("usr/lib/link%d", i), Mode: fs.ModeSymlink, Data: []byte("0")})
		}
		shared := image.NewLayer(files...)
		var named []image.Named
		for i := range 8 {
			named = append(named, image.New(image.Config{Layers: []image.Layer{shared, image.NewLayer(image.Random("own", uint64(i), 1000))}}).Name(fmt.Sprintf("quay.io/shared/%d:1", i)))
		}
		l := newLoading(t, "", daemon.Options{Root: shortDir(t)}, "parallel = 8")
		path := l.bundle(t, "a.tar", named...)
		stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock), Root: l.Root})
		stock.Ctr(t, "-n", "k8s.io", "images", "import", path)
		stock.Stop(t)
		zero(t, l.Root, "usr/lib/[0-9]*", func(path string) error { return os.Truncate(path, 0) })
		zero(t, l.Root, "usr/lib/link*", os.Remove)
		l.start(t)
		if out, good := l.status(t); !good {
			t.Errorf("got status\n%s", out)
		}
		if lines := l.Log.Lines("unpacked again"); len(lines) != 1 {
			t.Errorf("got %q, want the layer mended once", lines)
		}
		for _, n := range named {
			if err := n.Compare(l.Rootfs(t, "k8s.io", n.Names[0])); err != nil {
				t.Errorf("%s: %v", n.Names[0], err)
			}
		}
	})

	t.Run("in two namespaces, each of which has unpacked for itself", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{})
		path := image.WriteFile(t, filepath.Join(l.folder, "a.tar"), archive)
		l.start(t)
		l.waitVerified(t)
		l.Ctr(t, "-n", "another", "images", "import", path)
		zero(t, l.Root, "usr/lib/high", func(path string) error { return os.Truncate(path, 0) })
		out, errs, code := berth(t, "status", "--verify", "--address", l.Address)
		for _, namespace := range []string{"another", "k8s.io"} {
			if want := fmt.Sprintf("namespace %s: image %s: layer %s had 1 damaged files", namespace, name, img.Layers[1].Digest); code != 0 || !strings.Contains(out, want) {
				t.Errorf("got status %d\n%s%s\nwant %s", code, out, errs, want)
			}
			if err := img.Compare(l.Rootfs(t, namespace, name)); err != nil {
				t.Errorf("namespace %s: %v", namespace, err)
			}
		}
	})

	t.Run("blobs of their length with other bytes, found by status --verify", func(t *testing.T) {
		img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("low", 4, 1000)), image.NewLayer(image.Random("high", 5, 20<<20))}})
		l := newLoading(t, "", daemon.Options{})
		l.bundle(t, "a.tar", img.Name(name))
		l.start(t)
		l.waitVerified(t)
		pulled := image.Small("linux/amd64", 3)
		const lone = "registry.k8s.io/lone:1"
		l.Ctr(t, "-n", "other", "images", "import", image.WriteFile(t, filepath.Join(t.TempDir(), "b.tar"), image.Tar(image.OCI([]image.Named{pulled.Name(lone)}))))
		spoil(t, l.blob(img.Layers[1].Digest))
		spoil(t, l.blob(pulled.Layers[0].Digest))
		collected := l.collectAllTheTime(t)
		out, errs, code := berth(t, "status", "--verify", "--address", l.Address)
		collected()
		for _, want := range []string{
			fmt.Sprintf("namespace k8s.io: image %s: blob %s was damaged; it was written again from its bundle\n", name, img.Layers[1].Digest),
			fmt.Sprintf("namespace other: image %s: blob %s is damaged, and in no bundle; remove the image and pull it again", lone, pulled.Layers[0].Digest),
		} {
			if code != 1 || !strings.Contains(out, want) {
				t.Errorf("got status %d\n%s%s\nwant\n%s", code, out, errs, want)
			}
		}
		if data, err := os.ReadFile(l.blob(img.Layers[1].Digest)); err != nil || digest.FromBytes(data) != img.Layers[1].Digest {
			t.Errorf("got the blob of the bundle's image not mended: %v", err)
		}
		for ref, namespace := range map[string]string{name: "k8s.io", lone: "other"} {
			if with := map[string]*image.Image{name: img, lone: pulled}[ref]; with.Compare(l.Rootfs(t, namespace, ref)) != nil {
				t.Errorf("got what is unpacked of %s changed, want it untouched", ref)
			}
		}
	})

	t.Run("by a snapshotter that has no directory for each layer: reported", func(t *testing.T) {
		img := image.New(image.Config{Layers: []image.Layer{
			image.NewLayer(image.Random("low", 1, 1000), image.Random("mid", 2, 1000), image.Random("gone", 3, 1000), image.Random("dir/old", 4, 1000)),
			image.NewLayer(image.Random("mid", 5, 2000), image.File{Path: ".wh.gone"}, image.File{Path: "dir/.wh..wh..opq"}, image.Random("dir/new", 6, 1000)),
		}})
		l := newLoading(t, "", daemon.Options{Level: "info"}, `snapshotter = "native"`)
		l.bundle(t, "a.tar", img.Name(name))
		l.start(t)
		l.waitVerified(t)
		out, _, code := berth(t, "status", "--verify", "--address", l.Address)
		if code != 0 || !strings.HasSuffix(out, "everything that is unpacked is as its layers are\n") {
			t.Errorf("got status %d\n%s\nwant 0 before anything is damaged", code, out)
		}
		found, _ := filepath.Glob(filepath.Join(l.Root, "io.containerd.snapshotter.v1.native/snapshots/*/low"))
		if len(found) != 2 {
			t.Fatalf("got %q, want the file in both snapshots", found)
		}
		l.Kill()
		for _, path := range found {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}
		want := fmt.Sprintf("image %s: layer %s has 1 damaged files, such as low: snapshotter native has no place of its own for a layer; remove the image", name, img.Layers[0].Digest)
		l.start(t)
		if out, good := l.status(t); good || !strings.Contains(out, want) {
			t.Errorf("got status\n%s\nwant %s", out, want)
		}
		if out, _, code := berth(t, "status", "--verify", "--address", l.Address); code != 1 || !strings.Contains(out, "namespace k8s.io: "+want) {
			t.Errorf("got status %d\n%s\nwant 1 and %s", code, out, want)
		}
		// It stays so in the next round, and after the next start, until it is mended.
		round := l.rounds()
		l.bundle(t, "b.tar", oneLayer(6, "registry.k8s.io/other:1"))
		l.waitRound(t, round)
		l.restart(t)
		if out, good := l.status(t); good || !strings.Contains(out, want) {
			t.Errorf("got status\n%s\nwant %s", out, want)
		}
		// The way out that the message names.
		l.Ctr(t, append([]string{"-n", "k8s.io", "images", "rm", "--sync"}, strings.Fields(l.Ctr(t, "-n", "k8s.io", "images", "ls", "-q"))...)...)
		within(t, 30*time.Second, "image loaded again", func() bool {
			out, _, code := berth(t, "load", "--address", l.Address, filepath.Join(l.folder, "a.tar"))
			return code == 0 && strings.Contains(out, name)
		})
		if out, _, code := berth(t, "status", "--verify", "--address", l.Address); code != 0 {
			t.Errorf("got status %d\n%s\nwant 0 after the image was removed and loaded again", code, out)
		}
	})

	t.Run("a layer itself, which must not be what its files are mended by", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{Root: shortDir(t)})
		plain := image.Tar(image.DockerSave([]image.Named{img.Name(name)}))
		image.WriteFile(t, filepath.Join(l.folder, "a.tar"), plain)
		stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock), Root: l.Root})
		stock.Ctr(t, "-n", "k8s.io", "images", "import", filepath.Join(l.folder, "a.tar"))
		stock.Kill()
		spoiled := 0
		for d := range l.blobs(t) {
			if info, err := os.Stat(l.blob(d)); err != nil {
				t.Fatal(err)
			} else if info.Size() > 50000 { // a layer, which has no checksum of its own
				spoil(t, l.blob(d))
				spoiled++
			}
		}
		l.start(t)
		if out, good := l.status(t); !good || spoiled != 2 {
			t.Errorf("got status, after %d spoiled layers,\n%s", spoiled, out)
		}
		if err := img.Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
			t.Error(err)
		}
		l.wantBlobs(t, l.blobs(t)) // all of them are what their names say
	})
}

// spoil changes one byte in the middle of a file.
func spoil(t testing.TB, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 0xff
	if err := errors.Join(os.Remove(path), os.WriteFile(path, data, 0o444)); err != nil {
		t.Fatal(err)
	}
}

// zero damages every file of overlay snapshots that has a path.
func zero(t testing.TB, root, path string, damage func(string) error) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs", path))
	if err != nil || len(found) == 0 {
		t.Fatalf("got no %s below %s %v", path, root, err)
	}
	for _, file := range found {
		if err := damage(file); err != nil {
			t.Fatal(err)
		}
	}
}

// shortDir is a directory without what an overlay's options take for their own.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "berth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
