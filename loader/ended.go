// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/log"
)

// ended is a file in Root that is there while containerd does not run and ended by itself, under this loader. Where it is not
// there at a start, the power may have gone, or a containerd without Berth may have run.
const ended = "ended"

// begin takes the file away for good, and reports whether it was there.
func (l *Loader) begin(ctx context.Context) (clean bool) {
	made := os.MkdirAll(l.Root, 0o700)
	err := os.Remove(filepath.Join(l.Root, ended))
	clean = err == nil
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(made, err, syncDir(l.Root)); err != nil {
		log.G(ctx).WithError(err).Warn("note that containerd runs")
	}
	return clean
}

// Close notes that containerd ended by itself, unless damage of the time before may be there still.
func (l *Loader) Close() error {
	if l.unclean.Load() {
		return nil
	}
	return errors.Join(writeFile(filepath.Join(l.Root, ended), nil), syncDir(l.Root))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
