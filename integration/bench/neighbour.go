// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// benchNeighbour measures what a load costs its neighbours: one that writes 2 kB and syncs it on the same disk, as etcd does for
// each entry of its log, and one that calls containerd's API, as kubelet does. With ours, with ours but without the syncing of
// layers, with stock, and with nothing going on.
func benchNeighbour(tb testing.TB, t *table, rounds int, images []image.Named) {
	path := image.WriteFile(tb, filepath.Join(tb.TempDir(), "oci.tar"), image.Tar(image.OCI(images)))
	const quiet = "version = 3\n[plugins.\"io.containerd.loader.v1.bundle\"]\npaths = []\n"
	unsynced := binaries.Edited(tb, binaries.Containerd, "plugin/differ.go", "unix.Syncfs(int(f.Fd()))", "error(nil)")
	kinds := []struct {
		name string
		i    int
		opts daemon.Options
	}{
		{"berth", ours, daemon.Options{Level: "warn", Binary: copied(tb, binaries.Path(tb, binaries.Containerd)), Config: quiet}},
		{"berth, layers not synced", ours, daemon.Options{Level: "warn", Binary: unsynced, Config: quiet}},
		{"stock", stock, daemon.Options{Level: "warn", Binary: copied(tb, binaries.Path(tb, binaries.Stock))}},
	}
	var running []*side
	for _, k := range kinds {
		running = append(running, &side{Daemon: daemon.Start(tb, k.opts)})
	}
	wrote, called := make([][]time.Duration, len(kinds)+1), make([][]time.Duration, len(kinds)+1)
	beside := func(k int, s *side, f func()) {
		log, err := os.CreateTemp(s.Root, "neighbour")
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { _ = os.Remove(log.Name()) }()
		defer log.Close()
		entry := make([]byte, 2<<10)
		writes, calls := during(tb, f, func() error {
			_, err := log.Write(entry)
			return errors.Join(err, unix.Fdatasync(int(log.Fd())))
		}, func() error {
			_, err := s.Client().Version(tb.Context())
			return err
		})
		wrote[k], called[k] = append(wrote[k], writes...), append(called[k], calls...)
	}
	for round := range rounds {
		order := []int{0, 1, 2}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, k := range order {
			s := running[k]
			s.Restart(tb, nil)
			beside(k, s, func() { s.load(tb, kinds[k].i, path) })
			s.forget(tb)
		}
		beside(len(kinds), running[0], func() { time.Sleep(time.Second) })
	}
	for _, row := range []struct {
		what string
		took [][]time.Duration
	}{{"2 kB written and synced beside a load", wrote}, {"a call of the API beside a load", called}} {
		took := row.took
		fmt.Fprintf(t.w, "%-53s %8s %8s %8s %8s\n", row.what, "median", "p99", "worst", "times")
		for k, name := range []string{kinds[0].name, kinds[1].name, kinds[2].name, "nothing going on"} {
			slices.Sort(took[k])
			at := func(q float64) float64 { return took[k][int(q*float64(len(took[k])-1))].Seconds() * 1000 }
			fmt.Fprintf(t.w, "  %-49s %6.1f ms %5.0f ms %5.0f ms %8d\n", name, at(0.5), at(0.99), at(1), len(took[k]))
		}
	}
	for _, s := range running {
		s.Stop(tb)
	}
}

// during calls two functions again and again while f runs, each for itself, and returns how long each call took.
func during(tb testing.TB, f func(), a, b func() error) (ofA, ofB []time.Duration) {
	ended := make(chan struct{})
	again := func(call func() error, took *[]time.Duration) func() {
		return func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(10 * time.Millisecond):
				}
				start := time.Now()
				if err := call(); err != nil {
					tb.Error(err)
					return
				}
				*took = append(*took, time.Since(start))
			}
		}
	}
	var calling sync.WaitGroup
	calling.Go(again(a, &ofA))
	calling.Go(again(b, &ofB))
	f()
	close(ended)
	calling.Wait()
	return ofA, ofB
}
