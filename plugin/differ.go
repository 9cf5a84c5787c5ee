// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/plugin"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/loader/unpacked"
	"github.com/berth-edge/berth/resolver"
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
func (d syncedDiffer) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (applied ocispec.Descriptor, err error) {
	release, err := resolver.AcquireUnpack(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer release()
	if len(mounts) != 1 || !isDevice(mounts[0].Source) {
		return d.apply(ctx, desc, mounts, "", opts)
	}
	// No path of the mount lies on what it writes to. Mounted here too, it is one file system that both see.
	mountErr := mount.WithTempMount(ctx, mounts, func(root string) error {
		applied, err = d.apply(ctx, desc, mounts, root, opts)
		return nil
	})
	if err == nil && mountErr != nil {
		return ocispec.Descriptor{}, fmt.Errorf("sync layer %s: %w", desc.Digest, mountErr)
	}
	return applied, err
}

// apply unpacks a layer and syncs what mounts write to, and the file system that is mounted at root unless that is "".
func (d syncedDiffer) apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, root string, opts []diff.ApplyOpt) (ocispec.Descriptor, error) {
	paths := writtenPaths(mounts)
	if root != "" {
		paths = []string{root}
	}
	fs, err := openWritten(paths)
	defer fs.close()
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("sync layer %s: %w", desc.Digest, err)
	}
	stop := fs.writeBack()
	applied, err := d.differ.Apply(ctx, desc, mounts, opts...)
	synced := stop()
	if err != nil {
		return applied, err
	}
	if err := errors.Join(synced, mark(mounts), fs.sync()); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("sync layer %s: %w", desc.Digest, err)
	}
	if root == "" && isElsewhere(mounts) {
		unix.Sync()
	}
	return applied, nil
}

// mark notes beside a layer that it was synced.
func mark(mounts []mount.Mount) error {
	for _, path := range writtenPaths(mounts) {
		if err := unpacked.Mark(path); err != nil {
			return err
		}
	}
	return nil
}

// fileSystems are those that a layer is unpacked to, each by one open file. They are opened before that, since syncfs
// tells of write errors that happened since then: the kernel writes on its own, too.
type fileSystems []*os.File

// openWritten opens the file systems that paths are on. With an error, too, the caller closes them.
func openWritten(paths []string) (fileSystems, error) {
	var fs fileSystems
	seen := map[uint64]bool{}
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fs, err
		}
		var stat unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &stat); err != nil || seen[stat.Dev] {
			f.Close()
			if err != nil {
				return fs, &os.PathError{Op: "stat", Path: path, Err: err}
			}
			continue
		}
		seen[stat.Dev] = true
		fs = append(fs, f)
	}
	return fs, nil
}

func (fs fileSystems) sync() error {
	var errs []error
	for _, f := range fs {
		if err := unix.Syncfs(int(f.Fd())); err != nil {
			errs = append(errs, &os.PathError{Op: "syncfs", Path: f.Name(), Err: err})
		}
	}
	return errors.Join(errs...)
}

func (fs fileSystems) close() {
	for _, f := range fs {
		f.Close()
	}
}

// writeBackEvery is how long unpacked data waits until it is on its way to the disk. Each time the file system writes its own
// blocks again, too.
const writeBackEvery = 200 * time.Millisecond

// writeBack syncs again and again until stop is called: the disk works while the layer is decompressed, and little is left
// to wait for at the end. stop returns the errors, which the kernel tells of once.
func (fs fileSystems) writeBack() (stop func() error) {
	stopped, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		var errs []error
		for {
			select {
			case <-stopped:
				ended <- errors.Join(errs...)
				return
			case <-time.After(writeBackEvery):
				if err := fs.sync(); err != nil && len(errs) == 0 {
					errs = append(errs, err)
				}
			}
		}
	}()
	return func() error {
		close(stopped)
		return <-ended
	}
}

// isElsewhere reports whether mounts write to a file system that none of their paths lies on, and that is not opened: one of
// several mounts, of which one is from a device, or one by a name that is no path, as that of ZFS is. That is synced without
// a word about errors.
func isElsewhere(mounts []mount.Mount) bool {
	return slices.ContainsFunc(mounts, func(m mount.Mount) bool { return m.Type == "zfs" || isDevice(m.Source) })
}

// isDevice reports whether a mount is from a device, as those of the btrfs and devmapper snapshotters are.
func isDevice(source string) bool {
	info, err := os.Stat(source)
	return err == nil && info.Mode()&os.ModeDevice != 0
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
