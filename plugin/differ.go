// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
	// Opened before, since syncfs tells of write errors that happened since then: the kernel may write on its own.
	dirs, err := openWritten(mounts)
	defer func() {
		for _, dir := range dirs {
			dir.Close()
		}
	}()
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("sync layer %s: %w", desc.Digest, err)
	}
	applied, err := d.differ.Apply(ctx, desc, mounts, opts...)
	if err != nil {
		return applied, err
	}
	synced := map[uint64]bool{}
	for _, dir := range dirs {
		if err := syncOnce(dir, synced); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("sync layer %s: %w", desc.Digest, err)
		}
	}
	return applied, nil
}

// openWritten opens what is there of the paths that a snapshot's mounts write to. What was opened is returned also
// with an error.
func openWritten(mounts []mount.Mount) ([]*os.File, error) {
	var dirs []*os.File
	for _, path := range writtenPaths(mounts) {
		dir, err := os.Open(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return dirs, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// syncOnce syncs the file system that f is on, unless it was.
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
