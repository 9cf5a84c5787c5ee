// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// enoughSpace refuses a load that cannot succeed: its blobs, and the least that they are unpacked, do not fit on the disk of
// Root, which is where containerd keeps both unless it is told otherwise.
// It is known that more than ranOut is needed, too.
func (l *Loader) enoughSpace(k lacks, ranOut uint64) error {
	need, free, err := l.space(k)
	if ranOut > 0 {
		need = max(need, ranOut+1)
	}
	if err != nil || need <= free {
		return nil // or the load will tell
	}
	return fmt.Errorf("%w: %w", l.shortage(need, free), syscall.ENOSPC)
}

// withNeed adds to an error that the disk is full how much is needed.
func (l *Loader) withNeed(k lacks, err error) error {
	if !isFull(err) {
		return err
	}
	need, free, unknown := l.space(k)
	if unknown != nil {
		return err
	}
	return fmt.Errorf("%w: %w", l.shortage(need, free), err)
}

func (l *Loader) shortage(need, free uint64) error {
	return fmt.Errorf("at least %s are needed, %s are free at %s", mebibytes(need), mebibytes(free), l.Root)
}

// space returns what is needed at least for what is not there, and what is free.
func (l *Loader) space(k lacks) (need, free uint64, err error) {
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
		return need, 0, err
	}
	return need, disk.Bavail * uint64(disk.Bsize), nil
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// oneLine is an error in one line: what ran at once may have failed at once.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.ReplaceAll(e.error.Error(), "\n", "; ") }

func (e oneLine) Unwrap() error { return e.error }
