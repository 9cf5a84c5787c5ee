// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/plugin"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// syncApplies makes a differ's Apply return only when what it unpacked is on disk. Its snapshot is committed after that,
// in a database that is synced: without this, a power cut leaves a committed snapshot of empty files, which containerd
// takes for whole (containerd#8409, #10457).
func syncApplies(ic *plugin.InitContext, inner initFn) (any, error) {
	instance, err := inner(ic)
	if err != nil {
		return nil, err
	}
	d, ok := instance.(differ)
	if !ok {
		return nil, fmt.Errorf("decorate differ: %T is not one", instance)
	}
	return syncedDiffer{d}, nil
}

type differ interface {
	diff.Comparer
	diff.Applier
}

type syncedDiffer struct{ differ }

var _ differ = syncedDiffer{}

// Apply implements [diff.Applier].
func (d syncedDiffer) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	stop := writeBack(mounts)
	applied, err := d.differ.Apply(ctx, desc, mounts, opts...)
	stop()
	if err != nil {
		return applied, err
	}
	if err := syncMounts(mounts); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("sync layer %s: %w", desc.Digest, err)
	}
	return applied, nil
}

// writeBackEvery is how long unpacked data waits until it is on its way to the disk.
const writeBackEvery = 50 * time.Millisecond

// writeBack syncs what mounts write to while a layer is unpacked, until the function that it returns is called: the disk
// works while the layer is decompressed, and little is left to wait for at the end. A failure is left to that end.
func writeBack(mounts []mount.Mount) (stop func()) {
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stopped:
				return
			case <-time.After(writeBackEvery):
				_ = syncMounts(mounts)
			}
		}
	}()
	return func() {
		close(stopped)
		<-ended
	}
}

// syncMounts syncs the file systems that a snapshot's mounts write to, each once.
func syncMounts(mounts []mount.Mount) error {
	synced := map[uint64]bool{}
	for _, path := range writtenPaths(mounts) {
		dir, err := os.Open(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		err = syncOnce(dir, synced)
		dir.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func syncOnce(f *os.File, synced map[uint64]bool) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if synced[stat.Dev] {
		return nil
	}
	synced[stat.Dev] = true
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: f.Name(), Err: err}
	}
	return nil
}

// writtenPaths are the paths on disk behind mounts: the upper directory of an overlay, the source of any other, and the
// directory of a source that is not there, as the erofs snapshotter has it before its image is made.
func writtenPaths(mounts []mount.Mount) []string {
	var paths []string
	for _, m := range mounts {
		source := m.Source
		for _, option := range m.Options {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				source = upper
			}
		}
		if !filepath.IsAbs(source) {
			continue
		}
		paths = append(paths, source, filepath.Dir(source))
	}
	return paths
}
