// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// bundled are eight images as a cluster has them: each a program of its own and something that cannot be compressed, over
// one layer that all share.
func bundled(tb testing.TB) []image.Named {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		tb.Fatal(err)
	}
	tool := func(name string) string {
		return filepath.Join(strings.TrimSpace(string(goroot)), "pkg/tool", runtime.GOOS+"_"+runtime.GOARCH, name)
	}
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		return data
	}
	var base []image.File
	for _, name := range []string{"asm", "cgo", "link"} {
		base = append(base, image.File{Path: "usr/bin/" + name, Mode: 0o755, Data: read(tool(name))})
	}
	shared := image.NewLayer(base...)
	var all []image.Named
	for i, path := range []string{
		binaries.Path(tb, binaries.Stock), binaries.Path(tb, binaries.Containerd), binaries.Path(tb, binaries.Shim),
		binaries.Path(tb, binaries.Runc), binaries.Path(tb, binaries.Ctr), binaries.Path(tb, binaries.Berth),
		tool("compile"), tool("vet"),
	} {
		own := image.NewLayer(image.File{Path: "usr/local/bin/program", Mode: 0o755, Data: read(path)}, image.Random("usr/share/assets", uint64(i+1), 6<<20))
		img := image.New(image.Config{Layers: []image.Layer{shared, own}})
		all = append(all, img.Name(fmt.Sprintf("registry.k8s.io/bench/image-%d:v1", i)))
	}
	return all
}

// loadSides are three daemons that images are loaded into, without CRI.
func loadSides(tb testing.TB) [sides]*side {
	var all [sides]*side
	for i, program := range sameFlags(tb) {
		opts := daemon.Options{Binary: copied(tb, program), Level: "warn"}
		if i == ours {
			opts.Config = "version = 3\n[plugins.\"io.containerd.loader.v1.bundle\"]\npaths = []\n"
		}
		all[i] = &side{Daemon: daemon.Start(tb, opts)}
	}
	return all
}

// cost is what one load cost.
type cost struct{ wall, cpu, peak, written samples }

func (c *cost) add(i int, wall, cpu, peak, written float64) {
	c.wall[i] = append(c.wall[i], wall)
	c.cpu[i] = append(c.cpu[i], cpu)
	c.peak[i] = append(c.peak[i], peak)
	c.written[i] = append(c.written[i], written)
}

// load loads bundles by the command of a side, and says what it cost: the command and the daemon with its children.
func (s *side) load(tb testing.TB, i int, paths ...string) (wall, cpu float64) {
	var commands []*exec.Cmd
	if i == ours {
		commands = append(commands, exec.Command(binaries.Path(tb, binaries.Berth), append([]string{"load", "--address", s.Address}, paths...)...))
	} else {
		for _, path := range paths {
			commands = append(commands, exec.Command(binaries.Path(tb, binaries.Ctr), "--address", s.Address, "-n", "k8s.io", "images", "import", path))
		}
	}
	before := cpuSeconds(tb, s.PID())
	start := time.Now()
	for _, c := range commands {
		if out, err := c.CombinedOutput(); err != nil {
			tb.Fatalf("%s: %v\n%s\n%s", sideNames[i], err, out, s.Log.Tail(20))
		}
		cpu += (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds()
	}
	return time.Since(start).Seconds(), cpu + cpuSeconds(tb, s.PID()) - before
}

// cpuSeconds is the time that a process and its children that ended have used (proc(5), stat).
func cpuSeconds(tb testing.TB, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	ticks := 0.0
	for _, f := range fields[11:15] {
		var n float64
		_, _ = fmt.Sscan(f, &n)
		ticks += n
	}
	return ticks / 100 // USER_HZ
}

// procMiB reads a number of bytes or kB that stands behind a key in a file of /proc.
func procMiB(tb testing.TB, pid int, file, key string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name != key {
			continue
		}
		var n float64
		_, _ = fmt.Sscan(value, &n)
		if strings.Contains(value, "kB") {
			n *= 1024
		}
		return n / (1 << 20)
	}
	tb.Fatalf("no %s in /proc/%d/%s", key, pid, file)
	return 0
}

// measureLoads loads the same bundles into each side in each round, each time into a daemon that was just started and has
// nothing, and once more after that.
func measureLoads(tb testing.TB, all [sides]*side, rounds int, paths ...string) (first cost, again samples) {
	for round := -1; round < rounds; round++ { // the first warms up, and does not count
		for _, i := range abba(round + 2) {
			s := all[i]
			s.Restart(tb, nil)
			wall, cpu := s.load(tb, i, paths...)
			peak, written := procMiB(tb, s.PID(), "status", "VmHWM"), procMiB(tb, s.PID(), "io", "write_bytes")
			second, _ := s.load(tb, i, paths...)
			if round >= 0 {
				first.add(i, wall, cpu, peak, written)
				again[i] = append(again[i], second)
			}
			s.forget(tb)
		}
	}
	return first, again
}

func benchBundles(tb testing.TB, t *table, rounds int) {
	images := bundled(tb)
	dir := tb.TempDir()
	archive := image.WriteFile(tb, filepath.Join(dir, "oci.tar"), image.Tar(image.OCI(images)))
	var tars []string
	for i := range images {
		tars = append(tars, image.WriteFile(tb, filepath.Join(dir, fmt.Sprintf("docker-%d.tar", i)), image.Tar(image.DockerSave(images[i:i+1]))))
	}
	info, err := os.Stat(archive)
	if err != nil {
		tb.Fatal(err)
	}
	all := loadSides(tb)
	first, again := measureLoads(tb, all, rounds, archive)
	what := fmt.Sprintf("OCI archive, %d images, %d MB", len(images), info.Size()/1e6)
	t.row(what, "s", first.wall)
	t.row("  CPU, children counted", "s", first.cpu)
	t.row("  peak memory of the daemon", "MiB", first.peak)
	t.row("  written to disk", "MiB", first.written)
	t.row("  once more, nothing changed", "s", again)
	benchNextStart(tb, t, rounds, images, again)
	first, again = measureLoads(tb, all, rounds, tars...)
	t.row(fmt.Sprintf("%d docker-save archives", len(tars)), "s", first.wall)
	t.row("  CPU, children counted", "s", first.cpu)
	t.row("  once more, nothing changed", "s", again)
	for _, s := range all {
		s.Stop(tb)
	}
	benchNeighbour(tb, t, rounds, images)
}
