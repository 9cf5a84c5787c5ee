// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestLoadOddFiles loads layers with everything that a layer may hold beside plain files (E42), and compares what is unpacked
// of them with what stock makes of the same archive.
func TestLoadOddFiles(t *testing.T) {
	daemon.RequireRoot(t)
	const ref, many = "quay.io/odd:1", 5000
	lower := []image.File{
		{Path: "opaque/gone", Data: []byte("x")}, {Path: "opaque/deeper/gone", Data: []byte("x")}, {Path: "kept/file", Data: []byte("x")},
	}
	upper := []*tar.Header{
		{Name: "dev/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Name: "dev/loop", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 7, Devminor: 0, Gid: 6},
		{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
		{Name: "setuid", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 1000, Gid: 1001},
		{Name: "setgid", Typeflag: tar.TypeReg, Mode: 0o2755},
		{Name: "sticky/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "capable", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.user.note":           "a note",
		}},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/nowhere"},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: "setuid"},
		{Name: "opaque/.wh..wh..opq", Typeflag: tar.TypeReg},
		{Name: "opaque/new", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "kept/.wh.file", Typeflag: tar.TypeReg},
	}
	for i := range many {
		lower = append(lower, image.File{Path: fmt.Sprintf("many/%d", i)})
		upper = append(upper, &tar.Header{Name: fmt.Sprintf("many/.wh.%d", i), Typeflag: tar.TypeReg})
	}
	odd := image.New(image.Config{Layers: []image.Layer{image.NewLayer(lower...), layerOf(t, upper)}}).Name(ref)

	l := newLoading(t, "", daemon.Options{Level: "info"})
	path := l.bundle(t, "odd.tar", odd)
	l.start(t)
	stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock)})
	stock.Ctr(t, "-n", "k8s.io", "images", "import", path)
	got, want := describe(t, l.Rootfs(t, "k8s.io", ref)), describe(t, stock.Rootfs(t, "k8s.io", ref))
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s: got %s, stock %s", name, got[name], want[name])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("got %v, which stock does not unpack", got)
	}
	for _, name := range []string{"dev/null", "dev/loop", "fifo", "setuid", "capable", "opaque/new", "many"} {
		if want[name] == "" {
			t.Errorf("got no %s with stock, want all of these compared", name)
		}
	}
	for name := range want {
		if strings.HasSuffix(name, "gone") || strings.HasPrefix(name, "many/") || name == "kept/file" {
			t.Errorf("got %s, want it removed by the upper layer", name)
		}
	}
}

// layerOf is a layer of headers alone.
func layerOf(t testing.TB, headers []*tar.Header) image.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.ModTime, h.Format = time.Unix(1_700_000_000, 0), tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	blob := image.Gzip(b.Bytes())
	return image.Layer{DiffID: digest.FromBytes(b.Bytes()), Digest: digest.FromBytes(blob), Blob: blob}
}

// describe says of each file below root what it is, by its path.
func describe(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprint(info.Mode(), " ", stat.Uid, ":", stat.Gid, " links ", stat.Nlink)
		if info.Mode().Type() != fs.ModeDir {
			text += fmt.Sprint(" size ", info.Size(), " device ", stat.Rdev, " time ", info.ModTime().Unix())
		}
		for _, name := range []string{"security.capability", "user.note"} {
			value := make([]byte, 64)
			if n, err := unix.Lgetxattr(path, name, value); err == nil {
				text += fmt.Sprintf(" %s %x", name, value[:n])
			}
		}
		rel, err := filepath.Rel(root, path)
		all[rel] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLoadLabels loads an image that brings labels and annotations of containerd's and CRI's own (E45): none of them becomes
// one of the image's, or of its content. Nor is its content said to come from a registry, but for the manifest.
func TestLoadLabels(t *testing.T) {
	daemon.RequireRoot(t)
	const ref = "quay.io/labels:1"
	foreign := map[string]string{
		"containerd.io/restart.status": "running", "containerd.io/restart.loguri": "file:///tmp/pwned", "containerd.io/gc.root": "always",
		"containerd.io/gc.expire": "2000-01-01T00:00:00Z", "io.cri-containerd.image": "unmanaged", "io.cri-containerd.pinned": "never",
		"io.cri-containerd.kind": "container", "io.berth.rule": "*", "io.berth.loaded-at": "2000-01-01T00:00:00Z",
	}
	img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", 900, 1000))}, Labels: foreign, Annotations: foreign}).Name(ref)
	l := newLoading(t, "", daemon.Options{Level: "info"})
	path := l.bundle(t, "labels.tar", img)
	l.start(t)
	record, err := l.get(t, ref)
	if err != nil {
		t.Fatal(err)
	}
	at := record.Labels["io.berth.loaded-at"]
	want := map[string]string{bundleLabel: path, "io.berth.loaded-at": at, "io.cri-containerd.image": "managed", "io.cri-containerd.pinned": "pinned"}
	if !maps.Equal(record.Labels, want) || at == foreign["io.berth.loaded-at"] {
		t.Errorf("got labels %v, want %v", record.Labels, want)
	}
	for _, line := range strings.Split(l.Ctr(t, "-n", "k8s.io", "content", "ls"), "\n") {
		for name := range foreign {
			if strings.Contains(line, name+"=") {
				t.Errorf("got content with label %s: %s", name, line)
			}
		}
		if strings.Contains(line, "distribution.source") && !strings.HasPrefix(line, img.Digest.String()) {
			t.Errorf("got content that is said to come from a registry: %s", line)
		}
	}
}

// TestLoadWrongDiffID loads an image whose configuration names other layers than it has (E23).
func TestLoadWrongDiffID(t *testing.T) {
	daemon.RequireRoot(t)
	const ref = "quay.io/diff:1"
	layer := image.NewLayer(image.Random("a", 901, 1000))
	layer.DiffID = digest.FromString("another layer")
	good := oneLayer(902, "quay.io/good:1")
	l := newLoading(t, "", daemon.Options{CRI: true, Level: "info"})
	path := l.bundle(t, "diff.tar", image.New(image.Config{Layers: []image.Layer{layer}}).Name(ref), good)
	l.start(t)
	l.wantLoaded(t, good)
	if l.criStatus(t, ref) != nil || targets(t, l.Daemon, "k8s.io")[ref] != "" {
		t.Errorf("got image %s, want none", ref)
	}
	if lines := l.Log.Lines("level=error", path, ref, "wrong diff id"); len(lines) != 1 {
		t.Errorf("got lines %q, want one error with the image and what is wrong\n%s", lines, l.Log.Tail(10))
	}
	if out, isGood := l.status(t); isGood || !strings.Contains(out, "wrong diff id") {
		t.Errorf("got status %t\n%s\nwant what is wrong, and a fault", isGood, out)
	}
}

// TestLoadDecompresses has an igzip that notes its runs (REL-13): containerd decompresses layers with it, and what a bundle as
// a whole is compressed with is decompressed in containerd itself.
func TestLoadDecompresses(t *testing.T) {
	daemon.RequireRoot(t)
	gzip, err := exec.LookPath("gzip")
	if err != nil {
		t.Skip("no gzip to stand in for igzip")
	}
	bin, runs := t.TempDir(), filepath.Join(t.TempDir(), "runs")
	write(t, filepath.Join(bin, "igzip"), fmt.Sprintf("#!/bin/sh\necho run >> %s\nexec %s -d -c\n", runs, gzip))
	if err := os.Chmod(filepath.Join(bin, "igzip"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		write func(...image.Named) []byte
		want  int
	}{
		{"layers in gzip, in gzip", func(n ...image.Named) []byte { return image.Gzip(image.Tar(image.OCI(n))) }, 2},
		{"plain layers, in gzip", func(n ...image.Named) []byte { return image.Gzip(image.Tar(image.DockerSave(n))) }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_ = os.Remove(runs)
			l := newLoading(t, "", daemon.Options{CRI: true, Level: "info", Env: []string{"PATH=" + bin + ":" + os.Getenv("PATH")}})
			a, b := oneLayer(903, "quay.io/a:1"), oneLayer(904, "quay.io/b:1")
			l.put(t, "a.tar.gz", tc.write(a, b))
			l.start(t)
			l.wantLoaded(t, a)
			l.wantLoaded(t, b)
			text, _ := os.ReadFile(runs)
			if got := bytes.Count(text, []byte("run")); got != tc.want {
				t.Errorf("got %d runs of igzip, want %d", got, tc.want)
			}
		})
	}
}

// TestLoadLargeLayer loads a layer of half a gigabyte into a containerd that is to use little memory (L23, P9).
func TestLoadLargeLayer(t *testing.T) {
	daemon.RequireRoot(t)
	const ref, size = "quay.io/large:1", 512 << 20
	idle := startNode(t, "", daemon.Options{Level: "info"})
	l := newLoading(t, "", daemon.Options{Level: "info", Env: []string{"GOMEMLIMIT=150MiB"}})
	path, want := sparseSave(t, t.TempDir(), ref, size)
	if err := os.Rename(path, filepath.Join(l.folder, "large.tar")); err != nil {
		t.Fatal(err)
	}
	l.start(t)
	if got := targets(t, l.Daemon, "k8s.io")[ref]; got == "" {
		t.Fatalf("got no image\n%s", l.Log.Tail(20))
	}
	if got := digestOf(t, filepath.Join(l.Rootfs(t, "k8s.io", ref), "zeros")); got != want {
		t.Errorf("got a file of digest %s, want %s", got, want)
	}
	grown := peak(t, l.PID()) - peak(t, idle.PID())
	t.Logf("%d MiB of memory at the peak, %d more than of an idle daemon", peak(t, l.PID())>>20, grown>>20)
	if grown > 64<<20 {
		t.Errorf("got a peak of memory %d MiB over that of an idle daemon, want at most 64", grown>>20)
	}
}

// sparseSave writes an archive as docker save does, of an image with a file of zeros that takes no room in the archive, and
// returns the file's digest too.
func sparseSave(t testing.TB, dir, ref string, size int64) (path string, file digest.Digest) {
	t.Helper()
	// The layer is a tar of its own: its digest is needed before it is written.
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		t.Fatal(err)
	}
	diff, content := digest.Canonical.Digester(), digest.Canonical.Digester()
	zeros := make([]byte, 1<<20)
	diff.Hash().Write(layer.Bytes())
	for range size / int64(len(zeros)) {
		diff.Hash().Write(zeros)
		content.Hash().Write(zeros)
	}
	diff.Hash().Write(zeros[:1024])
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, diff.Digest())
	path = filepath.Join(dir, "large.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole := int64(layer.Len()) + size + 1024
	out := tar.NewWriter(f)
	for _, e := range []struct{ name, text string }{
		{"config.json", config},
		{"manifest.json", fmt.Sprintf(`[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, ref)},
	} {
		err := out.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.text)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = out.Write([]byte(e.text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := out.WriteHeader(&tar.Header{Name: "layer.tar", Mode: 0o644, Size: whole, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	at, err := f.Seek(0, 1)
	if err == nil {
		_, err = f.Write(layer.Bytes())
	}
	if err == nil {
		err = f.Truncate(at + (whole+511)/512*512 + 1024)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path, content.Digest()
}

func digestOf(t testing.TB, path string) digest.Digest {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := digest.FromReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestTwoDaemons starts a second containerd on the root of one that runs (L25): it waits for the first one's database, and
// nothing comes to harm.
func TestTwoDaemons(t *testing.T) {
	daemon.RequireRoot(t)
	img := oneLayer(906, "quay.io/a:1")
	l := newLoading(t, "", daemon.Options{CRI: true, Level: "info"})
	l.bundle(t, "a.tar", img)
	l.start(t)
	dir, err := os.MkdirTemp("/tmp", "berth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	second := exec.Command(binaries.Path(t, binaries.Containerd), "--config", l.ConfigFile(), "--state", filepath.Join(dir, "state"), "--address", filepath.Join(dir, "c.sock"))
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	if _, err := os.Stat(filepath.Join(dir, "c.sock")); err == nil {
		t.Error("got a second daemon that serves, want it to wait for the database of the first, or to end")
	}
	_ = second.Process.Kill()
	_ = second.Wait()
	l.wantLoaded(t, img)
	l.restart(t)
	l.wantLoaded(t, img)
	if out, good := l.status(t); !good {
		t.Errorf("got status\n%s", out)
	}
}

// TestLoadedInCRI asks CRI for what was loaded into its namespace, the default (REL-08): it learns of an image by an event as soon
// as that is recorded, and finds it again after a restart.
func TestLoadedInCRI(t *testing.T) {
	daemon.RequireRoot(t)
	img := oneLayer(907, "quay.io/a:1")
	l := newLoading(t, "", daemon.Options{CRI: true, Level: "info"})
	l.bundle(t, "a.tar", img)
	for _, start := range []func(testing.TB){l.start, l.restart} {
		start(t)
		within(t, 10*time.Second, "the image in CRI's list", func() bool { return l.criStatus(t, img.Names[0]) != nil })
		if got := l.criStatus(t, img.Names[0]); got.Id != img.ConfigDigest.String() || !slices.Equal(got.RepoTags, img.Names) {
			t.Errorf("got %v, want id %s and tags %v", got, img.ConfigDigest, img.Names)
		}
	}
}

// TestRepairedInCRI starts CRI on an image that lacks its configuration, which makes it none of CRI's, and mends it afterwards: CRI is
// told, though the record is as it was (REL-08).
func TestRepairedInCRI(t *testing.T) {
	daemon.RequireRoot(t)
	img := oneLayer(908, "quay.io/a:1")
	l := newLoading(t, "", daemon.Options{CRI: true, Level: "info"})
	path := l.bundle(t, "a.tar", img)
	l.start(t)
	l.wantLoaded(t, img)
	l.Stop(t)
	l.put(t, "bad.tar", []byte("for which what was loaded is not let go")) // although its bundle is not there
	for _, err := range []error{os.Remove(l.blob(img.ConfigDigest)), os.Rename(path, path+".partial")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l.start(t)
	if got := l.criStatus(t, img.Names[0]); got != nil {
		t.Errorf("got %v of CRI, want none while its configuration is missing", got)
	}
	if err := os.Rename(path+".partial", path); err != nil {
		t.Fatal(err)
	}
	l.wantLoaded(t, img)
}
