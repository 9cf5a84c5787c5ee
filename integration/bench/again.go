// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// benchNextStart measures what a start costs with everything loaded, by what the loader's own log says, and what it costs to
// load a bundle of which one image changed. second is stock's second import of the same.
func benchNextStart(tb testing.TB, t *table, rounds int, images []image.Named, second samples) {
	folder := tb.TempDir()
	path := filepath.Join(folder, "bundle.tar")
	image.WriteFile(tb, path, image.Tar(image.OCI(images)))
	d := daemon.Start(tb, daemon.Options{
		Level: "info", Binary: copied(tb, binaries.Path(tb, binaries.Containerd)),
		Config: fmt.Sprintf("version = 3\n[plugins.\"io.containerd.loader.v1.bundle\"]\npaths = [%q]\n", folder),
	})
	loaded(tb, d, 1)
	// A daemon that is stopped while it verifies what it finds at its first start verifies it at the next one, too.
	if out, err := exec.Command(binaries.Path(tb, binaries.Berth), "status", "--verify", "--address", d.Address).CombinedOutput(); err != nil {
		tb.Fatalf("verify: %v\n%s", err, out)
	}
	before := state(tb, d.Root)
	s := second
	s[ours] = nil
	for round := range rounds {
		d.Restart(tb, nil)
		s[ours] = append(s[ours], loaded(tb, d, round+2))
	}
	if after := state(tb, d.Root); after != before {
		tb.Errorf("a start with nothing changed wrote to the content store")
	}
	t.row("  next start, nothing changed", "s", s)

	// One image of the bundle changes; and, to compare with, that image alone.
	var one, alone []float64
	for round := range rounds {
		changed := append([]image.Named(nil), images...)
		changed[3] = image.New(image.Config{Layers: []image.Layer{
			images[3].Layers[0], image.NewLayer(image.Random("usr/share/changed", uint64(100+round), 10<<20)),
		}}).Name(images[3].Names...)
		image.WriteFile(tb, path, image.Tar(image.OCI(changed)))
		d.Stop(tb)
		if err := d.Run(tb); err != nil {
			tb.Fatal(err)
		}
		one = append(one, loaded(tb, d, rounds+2+2*round))
		other := image.New(image.Config{Layers: []image.Layer{
			images[3].Layers[0], image.NewLayer(image.Random("usr/share/changed", uint64(1000+round), 10<<20)),
		}}).Name("registry.k8s.io/bench/alone:v1")
		file := image.WriteFile(tb, filepath.Join(tb.TempDir(), "alone.tar"), image.Tar(image.OCI([]image.Named{other})))
		wall, _ := (&side{Daemon: d}).load(tb, ours, file)
		alone = append(alone, wall)
		d.Stop(tb)
		if err := d.Run(tb); err != nil {
			tb.Fatal(err)
		}
		loaded(tb, d, rounds+3+2*round)
	}
	t.note("one image of %d changed: %.3g s; that image alone, with the command that loads it: %.3g s", len(images), median(one), median(alone))
	d.Stop(tb)
}

var roundSeconds = regexp.MustCompile(`msg="bundles are loaded".* seconds=([0-9.]+)`)

// loaded waits for the nth round of loading, and returns how long it took.
func loaded(tb testing.TB, d *daemon.Daemon, n int) float64 {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		lines := d.Log.Lines(`msg="bundles are loaded"`)
		if len(lines) < n {
			continue
		}
		s, err := strconv.ParseFloat(roundSeconds.FindStringSubmatch(lines[n-1])[1], 64)
		if err != nil {
			tb.Fatal(err)
		}
		return max(s, 0.0005) // it is given in milliseconds
	}
	tb.Fatalf("bundles are not loaded\n%s", d.Log.Tail(20))
	return 0
}

// state is what is in the content store, and since when. The directory itself does not count: containerd tries at every start
// what its file system can do, in a file that it removes.
func state(tb testing.TB, root string) (all string) {
	store := filepath.Join(root, "io.containerd.content.v1.content")
	err := filepath.WalkDir(store, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == store {
			return err
		}
		info, err := os.Lstat(path)
		if err == nil {
			all += fmt.Sprintln(path, info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}
