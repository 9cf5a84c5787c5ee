// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestReplaced replaces a bundle again and again while it is read, by another file and in place (L9): the image is one or the
// other, never of both, and in the end the last.
func TestReplaced(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{Level: "info"})
	path := filepath.Join(l.folder, "a.tar")
	var imgs []*image.Image
	var bundles [][]byte
	for i := range 2 {
		img, bundle := bundleOf(uint64(30+i), "quay.io/replaced:1")
		imgs, bundles = append(imgs, img), append(bundles, bundle)
	}
	place(t, path, bundles[0])
	l.start(t)
	for i := range 24 {
		if i%4 < 2 {
			place(t, path, bundles[i%2])
		} else if err := os.WriteFile(path, bundles[i%2], 0o644); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 10 * time.Millisecond)
		if i%5 != 0 {
			continue
		}
		got := targets(t, l.Daemon, "k8s.io")["quay.io/replaced:1"]
		at := slices.IndexFunc(imgs, func(img *image.Image) bool { return img.Digest == got })
		if at < 0 {
			t.Fatalf("got %q, want one of the two", got)
		}
	}
	l.becomesLoaded(t, "quay.io/replaced:1", imgs[1])
	within(t, 15*time.Second, "good status", func() bool { _, good := l.status(t); return good })
	for i, img := range imgs {
		ref := "quay.io/replaced@" + img.Digest.String()
		if targets(t, l.Daemon, "k8s.io")[ref] == "" {
			continue
		}
		if err := img.Compare(l.Rootfs(t, "k8s.io", ref)); err != nil {
			t.Errorf("image %d: %v", i, err)
		}
	}
	checkClean(t, l.node, "k8s.io")
}

// TestMendedInPlace writes what a bundle should be over one that cannot be listed, of the same size and time of modification, as
// `rsync --inplace --checksum --times` does.
func TestMendedInPlace(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{Level: "info"})
	img, good := bundleOf(40, "quay.io/mended:1")
	bad := bytes.Replace(good, []byte("index.json"), []byte("index.jsom"), 1)
	path := filepath.Join(l.folder, "a.tar")
	then := time.Now().Add(-time.Hour)
	put := func(data []byte) {
		image.WriteFile(t, path, data)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	put(bad)
	l.start(t)
	if out, good := l.status(t); good || stateOf(out, path) != "failed" {
		t.Fatalf("got status\n%s\nwant a bundle that failed", out)
	}
	l.Signal(syscall.SIGSTOP) // which must not see the time in between
	put(good)
	l.Signal(syscall.SIGCONT)
	l.becomesLoaded(t, "quay.io/mended:1", img)
}

// TestStrangePaths starts with paths that are not there, that are a file, and with a folder of very many files (L19).
func TestStrangePaths(t *testing.T) {
	daemon.RequireRoot(t)
	folder := openDir(t)
	img, bundle := bundleOf(40, "quay.io/among:1")
	other, single := bundleOf(41, "quay.io/single:1")
	old := time.Now().Add(-time.Hour)
	const many = 10_000
	for i := range many {
		path := image.WriteFile(t, filepath.Join(folder, fmt.Sprintf("file%05d-%s", i, strings.Repeat("x", 200))), []byte("no bundle"))
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	image.WriteFile(t, filepath.Join(folder, "zz.tar"), bundle)
	file := image.WriteFile(t, filepath.Join(openDir(t), "single.tar"), single)
	text := image.WriteFile(t, filepath.Join(openDir(t), "text"), []byte("hello"))
	if err := os.Chtimes(text, old, old); err != nil {
		t.Fatal(err)
	}
	l := newLoadingOf(t, daemon.Options{Level: "info"}, folder, filepath.Join(folder, "absent"), file, text, "/proc/absent")
	start := time.Now()
	l.start(t)
	t.Logf("%s from the start of containerd to the end of the load", time.Since(start))
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("got everything loaded after %s, want at most 10s", took)
	}
	l.becomesLoaded(t, "quay.io/among:1", img)
	l.becomesLoaded(t, "quay.io/single:1", other)
	out, good := l.status(t)
	if got := strings.Count(out, "not a tar, gzip or zstd file"); good || got != many+1 {
		t.Errorf("got status %v with %d files that are no bundle, want %d", good, got, many+1)
	}
	said := len(l.Log.Lines("level=error", "bundle="))
	if rest := l.Log.Lines("level=error", fmt.Sprintf("problems=%d", many+1-said)); said == 0 || said > 50 || len(rest) != 1 {
		t.Errorf("got %d lines of errors and %q, want 50 at most and one that counts the others", said, rest)
	}
	round := len(l.Log.Lines("bundles are loaded"))
	place(t, filepath.Join(folder, "zzz.tar"), bundle)
	within(t, 10*time.Second, "next round", func() bool { return len(l.Log.Lines("bundles are loaded")) > round })
	if got := len(l.Log.Lines("level=error", "bundle=")); got != said {
		t.Errorf("got %d lines of errors after a change, want the %d of before", got, said)
	}
}

// TestForgetsListings takes a compressed bundle away: what was remembered of it goes, and so does what a start that was
// killed had half-written.
func TestForgetsListings(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{})
	a := l.put(t, "a.tar", image.Gzip(image.Tar(image.OCI([]image.Named{oneLayer(1, "quay.io/a:1")}))))
	l.put(t, "b.tar", image.Gzip(image.Tar(image.OCI([]image.Named{oneLayer(2, "quay.io/b:1")}))))
	l.start(t)
	l.Stop(t)
	root := filepath.Join(l.Root, loaderURI)
	for _, left := range []string{".new-1", "listings/.new-2"} {
		write(t, filepath.Join(root, left), "[")
	}
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	l.start(t)
	left, _ := filepath.Glob(filepath.Join(root, ".new-*"))
	listings, err := os.ReadDir(filepath.Join(root, "listings"))
	if len(left) > 0 || len(listings) != 1 || err != nil {
		t.Errorf("got files %q and listings %v %v, want none and that of the bundle that is there", left, listings, err)
	}
	// A folder that is mounted later is not one without bundles.
	away := filepath.Join(t.TempDir(), "away")
	if err := os.Rename(l.folder, away); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"absent", "empty"} {
		if what == "empty" {
			if err := os.Mkdir(l.folder, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		l.restart(t)
		if now, err := os.ReadDir(filepath.Join(root, "listings")); err != nil || len(now) != 1 {
			t.Errorf("folder %s: got listings %v %v, want that of its bundle", what, now, err)
		}
	}
}
