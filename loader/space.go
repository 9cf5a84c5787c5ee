// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// room is what is free on a disk.
type room struct{ bytes, inodes uint64 }

// enoughSpace refuses a load that cannot succeed: its blobs, and the least that they are unpacked, do not fit on the disk of
// Root, which is where containerd keeps both unless it is told otherwise. Nor will it where there is no more than ranOut, with
// which it failed; nil if it did not.
func (l *Loader) enoughSpace(k lacks, ranOut *room) error {
	need := k.size()
	free, err := l.room()
	if err != nil {
		return nil // the load will tell
	}
	if ranOut != nil && free.bytes <= ranOut.bytes && free.inodes <= ranOut.inodes {
		if !ranOut.lacksInodes(need) {
			need = max(need, ranOut.bytes+1)
		}
	} else if need <= free.bytes {
		return nil
	}
	return fmt.Errorf("%w: %w", l.shortage(need, free), syscall.ENOSPC)
}

// withNeed adds to an error that the disk is full how much is needed.
func (l *Loader) withNeed(k lacks, err error) error {
	if !isFull(err) {
		return err
	}
	free, unknown := l.room()
	if unknown != nil {
		return err
	}
	return fmt.Errorf("%w: %w", l.shortage(k.size(), free), err)
}

// shortage says what there is too little of. That it is inodes is a guess: what was unpacked when they ran out is removed by now.
func (l *Loader) shortage(need uint64, free room) error {
	if free.lacksInodes(need) {
		return fmt.Errorf("%d inodes and %s are free at %s: too few inodes for the files of the image, or too little for what is in them", free.inodes, mebibytes(free.bytes), l.Root)
	}
	return fmt.Errorf("at least %s are needed, %s are free at %s", mebibytes(need), mebibytes(free.bytes), l.Root)
}

// lacksInodes reports whether a disk on which there was no room, for so many bytes at least, has no room for more files: an
// image has one for each 16 KiB or so, as ext4 expects of all data.
func (r room) lacksInodes(need uint64) bool {
	const each = 16 << 10
	return need <= r.bytes && r.inodes <= r.bytes/each/4
}

// size is what is needed at least for what is not there: its blobs, and layers, which take no less room unpacked than packed.
func (k lacks) size() (need uint64) {
	for _, descs := range [][]ocispec.Descriptor{k.missing, k.damaged, k.toUnpack} {
		for _, desc := range descs {
			need += uint64(desc.Size)
		}
	}
	return need
}

// room is what is free at Root. A file system that makes inodes as it needs them, as btrfs does, is said to have any number.
func (l *Loader) room() (room, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(l.Root, &disk); err != nil {
		return room{}, err
	}
	free := room{disk.Bavail * uint64(disk.Bsize), disk.Ffree}
	if disk.Files == 0 {
		free.inodes = math.MaxUint64
	}
	return free, nil
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// oneLine is an error in one line: what ran at once may have failed at once.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.ReplaceAll(e.error.Error(), "\n", "; ") }

func (e oneLine) Unwrap() error { return e.error }
