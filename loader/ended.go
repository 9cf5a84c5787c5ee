// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/log"
)

// ended is a file in Root that is there while containerd does not run and ended by itself, under this loader. Where it is not
// there at a start, the power may have gone. It says how often containerd's database had been written: if that is more since, a
// containerd without Berth ran, and the power may have gone under that.
const ended = "ended"

// begin takes the file away for good, and reports whether it was there and still holds. What was half-written beside it goes, too.
func (l *Loader) begin(ctx context.Context) (clean bool) {
	made := os.MkdirAll(l.Root, 0o700)
	left, _ := filepath.Glob(filepath.Join(l.Root, newFile+"*"))
	for _, file := range left {
		made = errors.Join(made, os.Remove(file))
	}
	file := filepath.Join(l.Root, ended)
	says, err := os.ReadFile(file)
	clean = err == nil && string(says) == l.StartedAt
	if err = os.Remove(file); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(made, err, syncDir(l.Root)); err != nil {
		log.G(ctx).WithError(err).Warn("note that containerd runs")
		return false
	}
	return clean
}

// Close notes that containerd ended by itself, unless damage of the time before may be there still, or a look that is to be ended.
func (l *Loader) Close() error {
	if l.unclean.Load() || l.looks.Open() {
		return nil
	}
	writes, err := l.Writes()
	if err != nil {
		return fmt.Errorf("note that containerd ended by itself: %w", err)
	}
	return errors.Join(writeFile(filepath.Join(l.Root, ended), []byte(writes)), syncDir(l.Root))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
