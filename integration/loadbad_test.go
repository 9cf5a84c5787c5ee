// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// badBundles are what may lie in a folder of bundles and is none, each with what must be said of it (RELIABILITY.md, 3.E: E29 and E44 among them).
func badBundles(t *testing.T) []badBundle {
	img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", 1, 100_000))}})
	second := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("b", 2, 100_000))}})
	layer := img.Layers[0].Digest
	named := []image.Named{img.Name("quay.io/bad:1")}
	oci, docker := image.OCI(named), image.DockerSave(named)
	whole := image.Tar(oci)
	edited := func(entries []image.Entry, name string, edit func(*image.Entry) bool) []byte {
		entries = slices.Clone(entries)
		entries = slices.DeleteFunc(entries, func(e image.Entry) bool { return strings.Contains(e.Name, name) && !edit(&e) })
		for i := range entries {
			if strings.Contains(entries[i].Name, name) {
				edit(&entries[i])
			}
		}
		return image.Tar(entries)
	}
	remove := func(*image.Entry) bool { return false }
	empty := func(e *image.Entry) bool { e.Data = nil; return true }
	huge := func(e *image.Entry) bool { e.Data = bytes.Repeat([]byte(" "), 21<<20); return true }
	flip := func(e *image.Entry) bool {
		e.Data = slices.Concat(e.Data[:500], []byte("XXXX"), e.Data[504:])
		return true
	}
	save := func(config string, layers ...string) []byte {
		text, _ := json.Marshal([]map[string]any{{"Config": config, "RepoTags": []string{"quay.io/bad:1"}, "Layers": layers}})
		return edited(docker, "manifest.json", func(e *image.Entry) bool { e.Data = text; return true })
	}
	config := img.ConfigDigest.Encoded() + ".json"
	out := func(link string) []byte {
		return image.Tar(append([]image.Entry{{Name: "out.tar", Link: link}}, untar(t, save(config, "out.tar"))...))
	}
	return []badBundle{
		{"empty.tar", nil, "empty file"},
		{"text.tar", []byte("hello world, this is no archive"), `not a tar, gzip or zstd file (starts with "hello wo")`},
		{"xz.tar.xz", []byte("\xfd7zXZ\x00" + strings.Repeat("x", 600)), "xz is not supported; use gzip or zstd"},
		{"cut.tar", whole[:len(whole)/2], "copy incomplete?"},
		{"cut.tar.gz", image.Gzip(whole)[:50_000], "gzip stream ends early"},
		{"cut.tar.zst", image.Zstd(whole)[:50_000], "zstd stream ends early"},
		{"digest.tar", edited(oci, layer.Encoded(), flip), "does not match its name"},
		{"digest.tar.gz", image.Gzip(edited(image.OCI([]image.Named{second.Name("quay.io/bad:2")}), second.Layers[0].Digest.Encoded(), flip)), "does not match its name"},
		{"missing.tar", edited(oci, layer.Encoded(), remove), "layer " + layer.String() + " is not in the bundle"},
		{"missing.tgz", image.Gzip(edited(oci, img.ConfigDigest.Encoded(), remove)), "config " + img.ConfigDigest.String() + " of manifest " + img.Digest.String() + " is not in the bundle"},
		{"nothing.tar", image.Tar([]image.Entry{{Name: "README", Data: []byte("x")}}), "neither docker-archive (manifest.json) nor OCI layout (oci-layout)"},
		{"noindex.tar", edited(oci, "index.json", remove), "missing index.json"},
		{"emptyindex.tar", edited(oci, "index.json", empty), "index.json is empty"},
		{"emptymanifest.tar", edited(docker, "manifest.json", empty), "manifest.json is empty"},
		{"hugeindex.tar", edited(oci, "index.json", huge), "index.json is larger than 20 MiB"},
		{"hugemanifest.tar.gz", image.Gzip(edited(docker, "manifest.json", huge)), "manifest.json is larger than 20 MiB"},
		{"nested.tar", image.Tar(nested(20)), "nested more than 8 deep"},
		{"up.tar", save(config, "../../../../etc/passwd"), `"../../../../etc/passwd" not found`},
		{"absolute.tar", save(config, "/etc/passwd"), `"/etc/passwd" not found`},
		{"uplink.tar", out("../../../../etc/passwd"), "points out of the archive"},
		{"abslink.tar", out("/etc/passwd"), "points out of the archive"},
		{"hardlink.tar", append(hardLink("out.tar", "/etc/passwd"), save(config, "out.tar")...), `hard link to "/etc/passwd"`},
		{"twice.tar", image.Tar(append(slices.Clone(oci), oci[1])), `two entries are named "index.json"`},
		{"bomb.tar.gz", bomb(gzipBest), `entry "zeros": expands to more than 1000 times its gzip size`},
		{"bomb.tar.zst", bomb(image.Zstd), `entry "zeros": expands to more than 1000 times its zstd size`},
		{"name.tar", image.Tar(image.DockerSave([]image.Named{img.Name("UPPER/Case:bad tag")})), `normalize image ref "UPPER/Case:bad tag"`},
	}
}

type badBundle struct {
	file string
	data []byte
	says string
}

// TestBadBundles loads a folder in which good bundles lie among bad ones (L11, REL-10, REL-12, REL-14, L20): all good ones are
// loaded, each bad one is said, in bounded memory, and said once.
func TestBadBundles(t *testing.T) {
	daemon.RequireRoot(t)
	open, other := openDir(t), openDir(t)
	idle := startNode(t, "", daemon.Options{Level: "info"})
	l := newLoadingOf(t, daemon.Options{Level: "info"}, openDir(t), open, filepath.Join(other, "absent"))
	want := map[string]string{}
	for _, bad := range badBundles(t) {
		want[image.WriteFile(t, filepath.Join(l.folder, bad.file), bad.data)] = bad.says
	}
	good := map[string]*image.Image{}
	for i, f := range formats {
		name := fmt.Sprintf("quay.io/good/%d:1", i)
		good[name] = image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("good", uint64(100+i), 50_000))}})
		f.write(t, filepath.Join(l.folder, fmt.Sprintf("good%d", i)), []image.Named{good[name].Name(name)})
	}
	valid := image.Tar(image.OCI([]image.Named{image.Small("linux/amd64", 120).Name("quay.io/open:1")}))
	image.WriteFile(t, filepath.Join(open, "a.tar"), valid)
	at := func(name, says string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		want[filepath.Join(l.folder, name)] = says
	}
	at("fifo.tar", "it is a FIFO, not a regular file", unix.Mkfifo(filepath.Join(l.folder, "fifo.tar"), 0o644))
	at("device.tar", "it is a device, not a regular file", unix.Mknod(filepath.Join(l.folder, "device.tar"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))))
	at("link.tar", "mode 0777", os.Symlink(filepath.Join(open, "a.tar"), filepath.Join(l.folder, "link.tar")))
	at("nowhere.tar", "is a link that leads nowhere", os.Symlink("absent", filepath.Join(l.folder, "nowhere.tar")))
	at("writable.tar", "mode 0666", os.Chmod(image.WriteFile(t, filepath.Join(l.folder, "writable.tar"), valid), 0o666))
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	want[open] = "refusing bundles in " + open + ": mode 0777"

	l.start(t)
	out, isGood := l.status(t)
	if isGood {
		t.Error("got exit status 0, want 1")
	}
	for path, says := range want {
		if !regexp.MustCompile(`error: [^\n]*` + regexp.QuoteMeta(says)).MatchString(section(out, path)) {
			t.Errorf("got status of %s %q, want %q", path, section(out, path), says)
		}
		if lines := l.Log.Lines("level=error", "bundle="+path+" ", strings.ReplaceAll(says, `"`, `\"`)); len(lines) != 1 {
			t.Errorf("got lines of %s %q, want one with %q", path, l.Log.Lines("bundle="+path+" "), says)
		}
	}
	for name, img := range good {
		if err := img.Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := len(targets(t, l.Daemon, "k8s.io")); got != 2*len(good) {
		t.Errorf("got %d images, want none but the good: %v", got, targets(t, l.Daemon, "k8s.io"))
	}
	grown := peak(t, l.PID()) - peak(t, idle.PID())
	t.Logf("%d MiB of memory at the peak, %d more than of an idle daemon", peak(t, l.PID())>>20, grown>>20)
	if grown > 64<<20 {
		t.Errorf("got a peak of memory %d MiB over that of an idle daemon, want at most 64", grown>>20)
	}
	checkClean(t, l.node, "k8s.io")

	// Nothing is said again when the folder is looked at again.
	errors := len(l.Log.Lines("level=error", "bundle="))
	image.WriteFile(t, filepath.Join(l.folder, "zz.tar"), valid)
	within(t, 20*time.Second, "one more image", func() bool { return targets(t, l.Daemon, "k8s.io")["quay.io/open:1"] != "" })
	if lines := l.Log.Lines("level=error", "bundle="); len(lines) != errors {
		t.Errorf("got errors again: %q", lines[errors:])
	}
}

// TestOneBadImage loads bundles of which one image cannot be used: the other image is loaded and pinned, status names the bad one,
// and of a layout that image is loaded too as soon as what it lacked is there.
func TestOneBadImage(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{Level: "info"})
	good, bad := oneLayer(140, "quay.io/onebad/good:1"), oneLayer(141, "quay.io/onebad/bad:1")
	all := image.OCI([]image.Named{bad, good})
	lacking := slices.DeleteFunc(slices.Clone(all), func(e image.Entry) bool { return strings.Contains(e.Name, bad.ConfigDigest.Encoded()) })
	inGzip := oneLayer(142, "quay.io/onebad/gzip:1")
	saved := slices.DeleteFunc(image.DockerSave([]image.Named{bad, inGzip}), func(e image.Entry) bool { return strings.Contains(e.Name, bad.ConfigDigest.Encoded()) })
	layout := image.WriteLayout(t, filepath.Join(l.folder, "layout"), lacking)
	archive := l.put(t, "saved.tar", image.Gzip(image.Tar(saved)))
	for range 2 { // the second time with what is remembered
		l.start(t)
		out, isGood := l.status(t)
		for _, path := range []string{layout, archive} {
			if want := "error: open bundle " + path + ": image quay.io/onebad/bad:1: "; isGood || !strings.Contains(section(out, path), want) {
				t.Errorf("got status %t of %s\n%s\nwant a fault with %q", isGood, path, section(out, path), want)
			}
		}
		l.wantLoaded(t, good)
		l.wantLoaded(t, inGzip)
		if got := targets(t, l.Daemon, "k8s.io")["quay.io/onebad/bad:1"]; got != "" {
			t.Errorf("got the bad image recorded as %s", got)
		}
		l.Stop(t)
	}
	l.start(t)
	image.WriteLayout(t, layout, all)
	l.becomesLoaded(t, "quay.io/onebad/bad:1", bad.Image)
}

// TestStatusOfStrangeEntry has a bundle whose fault names an entry that is not UTF-8, which an answer over gRPC cannot have in it: the
// status is there all the same.
func TestStatusOfStrangeEntry(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{})
	bad := l.put(t, "bad.tar", image.Tar([]image.Entry{
		{Name: "manifest.json", Data: []byte(`[{"Config":"config.json","RepoTags":["quay.io/strange:1"],"Layers":[]}]`)},
		{Name: "config.json", Link: "\xff.json"}, {Name: "\xff.json", Data: []byte{}},
	}))
	l.start(t)
	if out, good := l.status(t); good || !strings.Contains(section(out, bad), "\ufffd.json is empty") {
		t.Errorf("got status %t\n%s\nwant the fault of %s", good, out, bad)
	}
	if out, errs, code := berth(t, "load", "--address", l.Address, bad); code != 1 || !strings.Contains(out, "\ufffd.json is empty") {
		t.Errorf("load: got %d\n%s%s\nwant the fault", code, out, errs)
	}
}

// section is what status prints of a bundle.
func section(status, path string) string {
	_, rest, _ := strings.Cut(status, "\n  "+path+": ")
	if at := strings.Index(rest, "\n  /"); at >= 0 {
		rest = rest[:at]
	}
	return rest
}

// peak is the most memory that a process ever had, in bytes.
func peak(t testing.TB, pid int) int {
	t.Helper()
	return memory(t, pid, "VmHWM")
}

// memory is what /proc/PID/status says of a process under a key, in bytes (proc(5)).
func memory(t testing.TB, pid int, key string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(key + `:\s+(\d+) kB`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("got no %s of process %d", key, pid)
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// nested are the members of an OCI archive of indexes in indexes.
func nested(depth int) []image.Entry {
	at := image.Small("linux/amd64", 130)
	entries := image.OCI([]image.Named{at.Name("quay.io/nested:1")})
	for range depth {
		at = image.Index(at)
		entries = append(entries, image.Entry{Name: "blobs/sha256/" + at.Digest.Encoded(), Data: at.Content})
	}
	top := image.OCI([]image.Named{at.Name("quay.io/nested:1")})
	return append([]image.Entry{top[0], top[1]}, entries[2:]...)
}

// bomb is an archive that is small, and a GiB when it is decompressed.
func bomb(pack func([]byte) []byte) []byte {
	var header bytes.Buffer
	_ = tar.NewWriter(&header).WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: 1 << 30, Typeflag: tar.TypeReg})
	return append(pack(header.Bytes()), bytes.Repeat(pack(make([]byte, 32<<20)), 32)...)
}

func gzipBest(data []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

// hardLink is the header of a hard link in an archive.
func hardLink(name, target string) []byte {
	var header bytes.Buffer
	_ = tar.NewWriter(&header).WriteHeader(&tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink})
	return header.Bytes()
}

// untar returns the members of an archive.
func untar(t testing.TB, data []byte) (entries []image.Entry) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err != nil {
			return entries
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, image.Entry{Name: h.Name, Data: b.Bytes(), Link: h.Linkname})
	}
}
