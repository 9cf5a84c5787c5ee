// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
)

var (
	powerRounds = flag.Int("power.rounds", 10, "rounds of the tests that cut power, and that kill containerd, at random moments")
	powerSeed   = flag.Uint64("power.seed", uint64(time.Now().UnixNano()), "what random moments are drawn from")
)

// powerModes are the ways to pull that must be safe.
var powerModes = []struct {
	name, config string
	snapshotter  string
	lanes        []powerLane
}{
	{"CRI and ctr", "", "overlayfs", []powerLane{laneCRI, laneCtr}},
	{"CRI's local pull, taken over", `
[plugins."io.containerd.cri.v1.images"]
  use_local_image_pull = true
  image_pull_with_sync_fs = true
`, "overlayfs", []powerLane{laneCRI}},
	{"native snapshotter", `
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "native"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "native"
`, "native", []powerLane{laneCRI}},
}

// TestPowerCutAfterPulls cuts power the moment that pulls have returned, while others are in flight: what was pulled
// is there afterwards, byte for byte, and what was not can be (F1, L3).
func TestPowerCutAfterPulls(t *testing.T) {
	daemon.RequireRoot(t)
	for _, mode := range powerModes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			p := newPowered(t, binaries.Path(t, binaries.Containerd), mode.config)
			p.snapshotter = mode.snapshotter
			p.start(t)
			p.cutAfterPulls(t, mode.lanes)
			p.start(t)
			if err := p.damage(t); err != nil {
				t.Errorf("got damage after the cut, want none:\n%v", err)
			}
			for _, lane := range mode.lanes {
				p.wantListed(t, lane, p.images...)
			}
			p.wantNothingLeft(t, 0)
			for _, lane := range mode.lanes {
				for _, img := range p.slow {
					p.wantPull(t, lane, img)
				}
				p.wantListed(t, lane, p.all()...)
			}
			if err := p.damage(t); err != nil {
				t.Errorf("got damage after pulls were repeated, want none:\n%v", err)
			}
			p.wantNothingLeft(t, 0)
			p.wantNoMoreDisk(t, mode.lanes)
		})
	}
}

// TestPowerCutDamages is the proof that TestPowerCutAfterPulls can fail: the same cut ruins what was pulled by stock
// containerd, and by ours with the one line taken out that makes unpacked layers durable.
func TestPowerCutDamages(t *testing.T) {
	daemon.RequireRoot(t)
	for name, binary := range map[string]func() string{
		"stock": func() string { return binaries.Path(t, binaries.Stock) },
		"differ not decorated": func() string {
			return binaries.Edited(t, binaries.Containerd, "plugin/differ.go", "return syncedDiffer{d}, nil", "return d, nil")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPowered(t, binary(), "")
			p.stock = name == "stock"
			p.start(t)
			p.cutAfterPulls(t, powerModes[0].lanes)
			p.start(t)
			err := p.damage(t)
			if err == nil || !strings.Contains(err.Error(), "got 0 bytes") {
				t.Fatalf("got %v, want files of length 0 in images that are listed", err)
			}
			var images, files int
			for line := range strings.Lines(err.Error()) {
				if strings.HasPrefix(line, "image ") {
					images++
				}
				if strings.Contains(line, "got 0 bytes") {
					files++
				}
			}
			t.Logf("%d listed images damaged, %d files of length 0", images, files)
		})
	}
}

// TestPowerCutAfterStock pulls with stock, which syncs nothing, and starts Berth on that while all of it is in memory. What Berth
// found to be whole is on the disk from then on (REL-05).
func TestPowerCutAfterStock(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	p := newPowered(t, binaries.Path(t, binaries.Stock), "")
	p.stock = true
	p.start(t)
	p.wantPull(t, laneCRI, p.images[0])
	p.kill()
	p.daemon, p.binary, p.stock = nil, binaries.Path(t, binaries.Containerd), false
	for _, cut := range []bool{true, false} {
		p.start(t)
		if out, errs, code := berth(t, "status", "--verify", "--address", p.daemon.Address); code != 0 {
			t.Fatalf("got status %d\n%s%s", code, out, errs)
		}
		if lines := p.daemon.Log.Lines("damaged files"); len(lines) > 0 {
			t.Errorf("got damage %q, want none", lines)
		}
		if cut {
			p.disk.Cut(t)
			p.kill()
			p.disk.Restore(t)
		}
	}
	if err := p.damage(t); err != nil {
		t.Errorf("got damage, want none:\n%v", err)
	}
}

// TestPowerCutInDownload cuts power in the middle of a download and nothing else: nobody has synced what containerd
// notes of it.
func TestPowerCutInDownload(t *testing.T) {
	daemon.RequireRoot(t)
	for _, lane := range powerModes[0].lanes {
		t.Run(string(lane), func(t *testing.T) {
			t.Parallel()
			p := newPowered(t, binaries.Path(t, binaries.Containerd), "")
			p.start(t)
			p.wantPull(t, lane, p.images[0])
			var inFlight sync.WaitGroup
			inFlight.Go(func() { _ = p.pull(t, lane, p.large) })
			p.waitIngest(t)
			p.disk.Cut(t)
			p.kill()
			inFlight.Wait()
			p.disk.Restore(t)
			p.fast.Store(true)
			p.start(t)
			p.wantNothingLeft(t, 0)
			p.wantPull(t, lane, p.large)
			if err := p.damage(t); err != nil {
				t.Errorf("got damage, want none:\n%v", err)
			}
		})
	}
}

// TestOrphanedSnapshots starts containerd on what a cut leaves between a snapshot's directory and its record: the next
// pull takes the same number.
func TestOrphanedSnapshots(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	p := newPowered(t, binaries.Path(t, binaries.Containerd), "")
	p.start(t)
	p.wantPull(t, laneCRI, p.images[4])
	p.kill()
	for i := range 50 {
		dir := filepath.Join(p.daemon.Root, "io.containerd.snapshotter.v1.overlayfs/snapshots", fmt.Sprint(i+1), "fs")
		if err := os.MkdirAll(filepath.Join(dir, "left"), 0o755); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			_ = os.Remove(filepath.Join(dir, "left")) // the one snapshot that is known
		}
	}
	p.start(t)
	p.wantPull(t, laneCRI, p.images[0])
	if err := p.damage(t); err != nil {
		t.Errorf("got damage, want none:\n%v", err)
	}
}

// TestPowerCutAnywhere cuts power at random moments of pulls and of removals, again and again on one disk (R27, L2).
func TestPowerCutAnywhere(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	p := newPowered(t, binaries.Path(t, binaries.Containerd), "")
	p.rounds(t, true)
}

// TestKillAnywhere is TestPowerCutAnywhere with SIGKILL in place of the cut (R27, L1).
func TestKillAnywhere(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	p := newPowered(t, binaries.Path(t, binaries.Containerd), "")
	p.rounds(t, false)
}

// rounds does what is said of [TestPowerCutAnywhere] and [TestKillAnywhere].
func (p *powered) rounds(t *testing.T, cutPower bool) {
	t.Logf("to repeat: -power.rounds=%d -power.seed=%d", *powerRounds, *powerSeed)
	random := rand.New(rand.NewPCG(*powerSeed, 0))
	lanes := powerModes[0].lanes
	p.fast.Store(true)
	p.start(t)
	begin := time.Now()
	for _, lane := range lanes {
		for _, img := range p.all() {
			p.wantPull(t, lane, img)
		}
	}
	span := time.Since(begin) / 3 // what it takes when several are in flight and some is there
	var returned, early int
	for round := range *powerRounds {
		p.removeSome(t, random)
		work := p.pullSome(t, random, lanes)
		wait := rand.N(span)
		time.Sleep(wait)
		finished := work.stop()
		if cutPower {
			p.disk.Cut(t)
		}
		p.kill()
		work.wg.Wait()
		if cutPower {
			p.disk.Restore(t)
		}
		p.start(t)
		if err := p.damage(t); err != nil {
			t.Errorf("round %d, after %s: got damage, want none:\n%v", round, wait, err)
		}
		n := 0
		for lane, images := range finished {
			n += len(images)
			p.wantListed(t, lane, images...)
		}
		if returned += n; n < len(lanes)*len(p.all()) {
			early++
		}
		p.wantNothingLeft(t, perLane)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d of %d rounds ended with pulls in flight; %d pulls had returned", early, *powerRounds, returned)
	for _, lane := range lanes {
		for _, img := range p.all() {
			p.wantPull(t, lane, img)
		}
		p.wantListed(t, lane, p.all()...)
	}
	if err := p.damage(t); err != nil {
		t.Errorf("got damage after pulls were repeated, want none:\n%v", err)
	}
	p.wantNothingLeft(t, 0)
	p.wantNoMoreDisk(t, lanes)
}

// perLane is how many pulls of one client are in flight.
const perLane = 2

// pulling is pulls in flight.
type pulling struct {
	wg sync.WaitGroup

	mu       sync.Mutex
	stopped  bool
	finished map[powerLane][]poweredImage
}

// stop returns what was pulled until now.
func (w *pulling) stop() map[powerLane][]poweredImage {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	return w.finished
}

func (w *pulling) finish(lane powerLane, img poweredImage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.finished[lane] = append(w.finished[lane], img)
	}
}

// pullSome starts pulls of all images through every lane, in an order of its own.
func (p *powered) pullSome(t *testing.T, random *rand.Rand, lanes []powerLane) *pulling {
	w := &pulling{finished: map[powerLane][]poweredImage{}}
	for _, lane := range lanes {
		queue := make(chan poweredImage, len(p.all()))
		for _, i := range random.Perm(len(p.all())) {
			queue <- p.all()[i]
		}
		close(queue)
		for range perLane {
			w.wg.Go(func() {
				for img := range queue {
					if p.pull(t, lane, img) != nil {
						return
					}
					w.finish(lane, img)
				}
			})
		}
	}
	return w
}
