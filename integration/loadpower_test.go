// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
)

// TestLoadPowerCutAfter cuts power the moment that the log says that bundles are loaded (REL-03, L3). Nothing is asked of
// containerd in between, and nobody syncs.
func TestLoadPowerCutAfter(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	p := newLoadPowered(t, binaries.Path(t, binaries.Containerd))
	p.start(t)
	p.waitLoaded(t)
	p.lose(t, true)
	p.recovers(t)
}

// TestLoadPowerCutDamages is the proof that the tests of this file can fail: without the one line that makes unpacked layers
// durable, the next start finds empty files.
func TestLoadPowerCutDamages(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	p := newLoadPowered(t, binaries.Edited(t, binaries.Containerd, "plugin/differ.go", "return syncedDiffer{d}, nil", "return d, nil"))
	p.start(t)
	p.waitLoaded(t)
	p.lose(t, true)
	p.start(t)
	p.waitLoaded(t)
	if lines := p.mended(); len(lines) == 0 {
		t.Errorf("got no line of damage, want some:\n%s", p.daemon.Log.Tail(30))
	}
	p.wantWhole(t) // since the loader mends what it finds
}

// TestLoadPowerCutAnywhere cuts power at random moments during and after a load, again and again on one disk (REL-04, L2; P10 is
// -power.rounds=200).
func TestLoadPowerCutAnywhere(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	newLoadPowered(t, binaries.Path(t, binaries.Containerd)).loseOften(t, true)
}

// TestLoadKillAnywhere is TestLoadPowerCutAnywhere with SIGKILL in place of the cut (REL-17, L1, P10).
func TestLoadKillAnywhere(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	newLoadPowered(t, binaries.Path(t, binaries.Containerd)).loseOften(t, false)
}

// aLoad is about what loading everything takes.
const aLoad = 500 * time.Millisecond

func (p *loadPowered) loseOften(t *testing.T, cutPower bool) {
	t.Logf("to repeat: -power.rounds=%d -power.seed=%d", *powerRounds, *powerSeed)
	random := rand.New(rand.NewPCG(*powerSeed, 1))
	p.start(t)
	p.waitLoaded(t)
	p.wantWhole(t)
	early := 0
	for round := range *powerRounds {
		p.removeSome(t, random)
		if random.IntN(2) == 0 {
			p.daemon.Stop(t)
		} else {
			p.daemon.Kill()
		}
		p.start(t)
		wait := time.Duration(random.Int64N(int64(aLoad)))
		time.Sleep(wait)
		if p.rounds() == p.started {
			early++
		}
		p.lose(t, cutPower)
		p.recovers(t)
		if t.Failed() {
			t.Fatalf("round %d, after %s", round, wait)
		}
	}
	t.Logf("%d of %d rounds ended during a load", early, *powerRounds)
	p.wantNoMoreDisk(t)
}

// recovers starts containerd after it was lost: all is loaded again, nothing that was listed had been damaged, and of what was
// going on there is one lease at most.
func (p *loadPowered) recovers(t *testing.T) {
	t.Helper()
	p.start(t)
	ctx := namespaces.WithNamespace(t.Context(), string(laneCRI))
	if left, err := p.daemon.Client().LeasesService().List(ctx); err != nil || len(left) > 1 {
		t.Errorf("got leases %v %v, want one at most", left, err)
	}
	p.waitLoaded(t)
	p.wantWhole(t)
	p.wantNothingMended(t)
}

// TestLoadPowerCutCollecting cuts power while labels change, and while containerd collects what was removed (L4): the next start
// has it all again, as if nothing had happened.
func TestLoadPowerCutCollecting(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	t.Logf("to repeat: -power.rounds=%d -power.seed=%d", *powerRounds, *powerSeed)
	random := rand.New(rand.NewPCG(*powerSeed, 2))
	p := newLoadPowered(t, binaries.Path(t, binaries.Containerd))
	p.start(t)
	p.waitLoaded(t)
	early := 0
	for round := range *powerRounds {
		<-p.unpinAndRemoveAll(t)
		p.daemon.Stop(t)
		p.start(t) // after a clean end, or what was loaded is compared and synced once more
		p.waitLoaded(t)
		ended := p.unpinAndRemoveAll(t)
		wait := time.Duration(random.Int64N(int64(aCollection)))
		time.Sleep(wait)
		select {
		case <-ended:
		default:
			early++
		}
		p.lose(t, true)
		<-ended
		p.recovers(t)
		if t.Failed() {
			t.Fatalf("round %d, after %s", round, wait)
		}
	}
	t.Logf("%d of %d rounds ended during a collection", early, *powerRounds)
	p.wantNoMoreDisk(t)
}

// aCollection is about what removing everything takes.
const aCollection = 150 * time.Millisecond

// unpinAndRemoveAll begins to take the pins away from all images, and then to remove them and all that they kept, until containerd
// is lost.
func (p *loadPowered) unpinAndRemoveAll(t *testing.T) (ended <-chan struct{}) {
	t.Helper()
	ctx, store, list := p.images(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, i := range list {
			i.Labels = nil
			_, _ = store.Update(ctx, i, "labels")
		}
		for n, i := range list {
			var opts []images.DeleteOpt
			if n%4 == 3 || n == len(list)-1 {
				opts = append(opts, images.SynchronousDelete())
			}
			_ = store.Delete(ctx, i.Name, opts...)
		}
	}()
	return done
}

// images are the records of all images, with what changes them.
func (p *loadPowered) images(t *testing.T) (context.Context, images.Store, []images.Image) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), string(laneCRI))
	store := p.daemon.Client().ImageService()
	list, err := store.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return ctx, store, list
}

// removeSome removes records of images, some of them all, and with or without what they kept.
func (p *loadPowered) removeSome(t *testing.T, random *rand.Rand) {
	t.Helper()
	ctx, store, list := p.images(t)
	one, all := list[random.IntN(len(list))].Target.Digest, random.IntN(2) == 0
	for _, i := range list {
		if !all && i.Target.Digest != one && random.IntN(3) != 0 {
			continue
		}
		if err := store.Delete(ctx, i.Name); err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	}
	if random.IntN(2) == 0 {
		p.collect(t)
	}
}

// wantNoMoreDisk checks that the disk is used as if everything had been loaded once, without any accident.
func (p *loadPowered) wantNoMoreDisk(t *testing.T) {
	t.Helper()
	p.collect(t)
	got := p.used(t)
	p.daemon.Stop(t)
	p.daemon, p.root = nil, "clean"
	p.start(t)
	p.waitLoaded(t)
	p.collect(t)
	want := p.used(t)
	t.Logf("used %d KiB of disk, %.3f of a clean load", got>>10, float64(got)/float64(want))
	if float64(got) > 1.05*float64(want) {
		t.Errorf("got %d bytes of disk used, want at most 1.05 of the %d of a clean load", got, want)
	}
}
