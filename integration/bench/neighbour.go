// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// benchNeighbour measures what a load costs one that writes 2 kB and syncs it, as etcd does for each entry of its log, on the
// same disk: with ours, with ours but without the syncing of layers, with stock, and with nothing going on.
func benchNeighbour(tb testing.TB, t *table, rounds int, images []image.Named) {
	path := image.WriteFile(tb, filepath.Join(tb.TempDir(), "oci.tar"), image.Tar(image.OCI(images)))
	const quiet = "version = 3\n[plugins.\"io.containerd.loader.v1.bundle\"]\npaths = []\n"
	unsynced := binaries.Edited(tb, binaries.Containerd, "plugin/differ.go", "unix.Syncfs(int(f.Fd()))", "error(nil)")
	kinds := []struct {
		name string
		i    int
		opts daemon.Options
	}{
		{"berth", ours, daemon.Options{Level: "warn", Binary: copied(tb, binaries.Containerd), Config: quiet}},
		{"berth, layers not synced", ours, daemon.Options{Level: "warn", Binary: unsynced, Config: quiet}},
		{"stock", stock, daemon.Options{Level: "warn", Binary: copied(tb, binaries.Stock)}},
	}
	var running []*side
	for _, k := range kinds {
		running = append(running, &side{Daemon: daemon.Start(tb, k.opts)})
	}
	took := make([][]time.Duration, len(kinds)+1)
	for round := range rounds {
		order := []int{0, 1, 2}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, k := range order {
			s := running[k]
			s.Restart(tb, nil)
			took[k] = append(took[k], during(tb, s.Root, func() { s.load(tb, kinds[k].i, path) })...)
			s.forget(tb)
		}
		took[len(kinds)] = append(took[len(kinds)], during(tb, running[0].Root, func() { time.Sleep(time.Second) })...)
	}
	fmt.Fprintf(t.w, "2 kB written and synced beside a load%17s %8s %8s %8s\n", "median", "p99", "worst", "writes")
	for k, name := range []string{kinds[0].name, kinds[1].name, kinds[2].name, "nothing going on"} {
		slices.Sort(took[k])
		at := func(q float64) float64 { return took[k][int(q*float64(len(took[k])-1))].Seconds() * 1000 }
		fmt.Fprintf(t.w, "  %-42s %6.1f ms %5.0f ms %5.0f ms %8d\n", name, at(0.5), at(0.99), at(1), len(took[k]))
	}
	for _, s := range running {
		s.Stop(tb)
	}
}

// during writes and syncs again and again in a directory while f runs, and returns how long each took.
func during(tb testing.TB, dir string, f func()) []time.Duration {
	log, err := os.CreateTemp(dir, "neighbour")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = os.Remove(log.Name()) }()
	defer log.Close()
	stop, done := make(chan struct{}), make(chan []time.Duration)
	go func() {
		var took []time.Duration
		entry := make([]byte, 2<<10)
		for {
			select {
			case <-stop:
				done <- took
				return
			case <-time.After(10 * time.Millisecond):
			}
			start := time.Now()
			if _, err := log.Write(entry); err == nil {
				_ = unix.Fdatasync(int(log.Fd()))
			}
			took = append(took, time.Since(start))
		}
	}()
	f()
	close(stop)
	return <-done
}
