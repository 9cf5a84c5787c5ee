// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// wantListed checks that images are there under their names.
func (p *powered) wantListed(t *testing.T, lane powerLane, images ...poweredImage) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), string(lane))
	for _, img := range images {
		got, err := p.daemon.Client().ImageService().Get(ctx, img.ref)
		if err != nil || got.Target.Digest != img.Digest {
			t.Errorf("%s: got image %s %v of %s, want %s", lane, got.Target.Digest, err, img.ref, img.Digest)
		}
		if lane != laneCRI {
			continue
		}
		status, err := p.cri.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: img.ref}})
		if want := img.For("linux/amd64").ConfigDigest.String(); err != nil || status.GetImage().GetId() != want {
			t.Errorf("CRI: got image %q %v of %s, want %s", status.GetImage().GetId(), err, img.ref, want)
		}
	}
}

// damage returns everything in which containerd's images and blobs differ from their source, nil if there is nothing.
func (p *powered) damage(t *testing.T) error {
	t.Helper()
	p.collect(t) // or what is to go may go while it is read
	var errs []error
	for _, lane := range []powerLane{laneCRI, laneCtr} {
		ctx := namespaces.WithNamespace(t.Context(), string(lane))
		list, err := p.daemon.Client().ListImages(ctx)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[digest.Digest]bool{}
		for _, listed := range list {
			if seen[listed.Target().Digest] {
				continue
			}
			seen[listed.Target().Digest] = true
			if err := p.compare(ctx, listed); err != nil {
				errs = append(errs, fmt.Errorf("image %s %s:\n%w", lane, listed.Name(), err))
			}
		}
		errs = append(errs, p.rehash(ctx))
	}
	return errors.Join(errs...)
}

// compare compares what containerd has of an image with its source: that all content is there, and the root file
// system. That content is what its digest says is [powered.rehash]'s to find out.
func (p *powered) compare(ctx context.Context, listed containerd.Image) error {
	pushed := p.find(listed.Target().Digest)
	if pushed == nil {
		return fmt.Errorf("got %s, want an image that was pushed", listed.Target().Digest)
	}
	img := pushed.For("linux/amd64")
	store := p.daemon.Client().ContentStore()
	var errs []error
	blobs := []digest.Digest{pushed.Digest, img.Digest, img.ConfigDigest}
	diffs := make([]digest.Digest, 0, len(img.Layers))
	for _, l := range img.Layers {
		blobs, diffs = append(blobs, l.Digest), append(diffs, l.DiffID)
	}
	for _, blob := range blobs {
		if _, err := store.Info(ctx, blob); err != nil {
			errs = append(errs, err)
		}
	}
	snapshotter := p.daemon.Client().SnapshotService(p.snapshotter)
	const key = "compare"
	mounts, err := snapshotter.View(ctx, key, identity.ChainID(diffs).String(),
		snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().Format(time.RFC3339)}))
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, mount.WithReadonlyTempMount(ctx, mounts, img.Compare), snapshotter.Remove(ctx, key))
	return errors.Join(errs...)
}

// rehash reads every blob of a namespace.
func (p *powered) rehash(ctx context.Context) error {
	store := p.daemon.Client().ContentStore()
	var errs []error
	err := store.Walk(ctx, func(info content.Info) error {
		data, err := content.ReadBlob(ctx, store, ocispec.Descriptor{Digest: info.Digest, Size: info.Size})
		if err == nil && digest.FromBytes(data) != info.Digest {
			err = fmt.Errorf("got %d bytes of %s, want %d", len(data), digest.FromBytes(data), info.Size)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("blob %s: %w", info.Digest, err))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// collect waits for garbage collection.
func (p *powered) collect(t *testing.T) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), "default")
	manager := p.daemon.Client().LeasesService()
	lease, err := manager.Create(ctx, leases.WithID("collect"))
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.Delete(ctx, lease, leases.SynchronousDelete); err != nil {
		t.Fatal(err)
	}
}

// wantNothingLeft checks that pulls which were interrupted left nothing: no lease, no ingest, no blob. Clients make
// leases of their own, for a day, and so many may be there of those that were caught before their pull began or after
// it had ended; they are removed.
func (p *powered) wantNothingLeft(t *testing.T, clients int) {
	t.Helper()
	p.collect(t)
	for _, lane := range []powerLane{laneCRI, laneCtr} {
		ctx := namespaces.WithNamespace(t.Context(), string(lane))
		manager := p.daemon.Client().LeasesService()
		left, err := manager.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i, lease := range left {
			if lane == laneCRI || i >= clients || lease.Labels["io.berth.pull"] != "" {
				t.Errorf("%s: got lease %v, want %d of clients at most", lane, lease, clients)
			}
			if err := manager.Delete(ctx, lease); err != nil {
				t.Error(err)
			}
		}
		ingests, err := p.daemon.Client().ContentStore().ListStatuses(ctx)
		if err != nil || len(ingests) > 0 {
			t.Errorf("%s: got ingests %v %v, want none", lane, ingests, err)
		}
	}
	root := p.daemon.Root
	if dirs, _ := filepath.Glob(filepath.Join(root, "io.containerd.content.v1.content/ingest/*")); len(dirs) > 0 {
		t.Errorf("got ingests %v on disk, want none", dirs)
	}
	blobs := map[string]bool{}
	for _, lane := range []powerLane{laneCRI, laneCtr} {
		ctx := namespaces.WithNamespace(t.Context(), string(lane))
		if err := p.daemon.Client().ContentStore().Walk(ctx, func(info content.Info) error {
			blobs[info.Digest.Encoded()] = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(root, "io.containerd.content.v1.content/blobs/*/*"))
	for _, file := range files {
		if !blobs[filepath.Base(file)] {
			t.Errorf("got blob %s on disk, want none that containerd does not know", file)
		}
	}
}

// wantNoMoreDisk checks that the disk is used as if all images had been pulled once, without any accident.
func (p *powered) wantNoMoreDisk(t *testing.T, lanes []powerLane) {
	t.Helper()
	p.collect(t)
	got := p.used(t)
	p.daemon.Stop(t)
	p.daemon = p.newDaemon(t, filepath.Join(p.disk.Dir, "clean"))
	p.start(t)
	for _, lane := range lanes {
		for _, img := range p.all() {
			p.wantPull(t, lane, img)
		}
	}
	p.collect(t)
	clean := p.used(t)
	t.Logf("used %d KiB of disk, %.3f of a clean pull", got>>10, float64(got)/float64(clean))
	if float64(got) > 1.05*float64(clean) {
		t.Errorf("got %d bytes of disk used, want at most 1.05 of the %d of a clean pull", got, clean)
	}
}

// used returns the bytes that files below containerd's root take on disk.
func (p *powered) used(t *testing.T) (sum int64) {
	t.Helper()
	fsys, err := os.Open(p.disk.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	if err := unix.Syncfs(int(fsys.Fd())); err != nil { // what is not written has no blocks yet
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	if err := filepath.WalkDir(p.daemon.Root, func(path string, _ fs.DirEntry, err error) error {
		var stat unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &stat)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed meanwhile
		}
		if err != nil {
			return err
		}
		if !seen[stat.Ino] {
			seen[stat.Ino] = true
			sum += stat.Blocks * 512
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return sum
}
