// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"syscall"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// enoughSpace refuses a load that cannot succeed: its blobs, and the least that they are unpacked, do not fit on the disk of
// Root, which is where containerd keeps both unless it is told otherwise.
func (l *Loader) enoughSpace(k lacks) error {
	var need uint64
	add := func(descs []ocispec.Descriptor) {
		for _, desc := range descs {
			need += uint64(desc.Size)
			if k.snapshot && images.IsLayerType(desc.MediaType) {
				need += uint64(desc.Size)
			}
		}
	}
	add(k.missing)
	add(k.damaged)
	var disk unix.Statfs_t
	if err := unix.Statfs(l.Root, &disk); err != nil {
		return nil // the load will tell
	}
	if free := disk.Bavail * uint64(disk.Bsize); need > free {
		return fmt.Errorf("%d MiB are needed, %d MiB are free at %s: %w", need>>20, free>>20, l.Root, syscall.ENOSPC)
	}
	return nil
}
