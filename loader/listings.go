// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/loader/bundle"
)

// list opens a bundle and reads what is in it, unless that is known. It reports whether there is anything to load.
func (l *Loader) list(ctx context.Context, e *entry) bool {
	if e.listed() {
		return e.bundle != nil
	}
	if e.isCopied() && !l.settles(ctx, e) { // reading it is of no use, and may take long
		return false
	}
	for {
		before, err := os.Lstat(e.path)
		if err != nil {
			e.fail(err)
			return false
		}
		b, err := l.open(ctx, e.path)
		var machine syscall.Errno
		fresh := (err != nil || len(b.Problems()) > 0) && isFresh(e.path) // it may still be copied
		if err == nil && fresh {
			b.Close()
			err = b.Problems()[0]
		}
		switch {
		case err == nil:
			l.catalog.list(ctx, e, b)
			return true
		case ctx.Err() != nil:
			e.fail(ctx.Err())
			return false
		case fresh:
			if !l.settles(ctx, e) {
				return false
			}
			continue
		case errors.As(err, &machine):
			e.fail(err) // which may pass, and the bundle stay the same
			return false
		}
		e.cannotRead(before, err)
		return false
	}
}

// settled is how long ago a bundle was written for its faults to be its own, and not those of a copy that is not complete.
const settled = 2 * time.Second

// settles waits until a bundle was not written to for a while. It reports false if somebody goes on writing: the other bundles
// are not to wait for the end of that, and [Loader.Run] looks again. Who loads a bundle by hand waits for it, the rounds after that do not.
func (l *Loader) settles(ctx context.Context, e *entry) bool {
	e.set(Copying)
	for first := written(e.path); isFresh(e.path); {
		if !wait(ctx, settled/4) {
			return false
		}
		if !e.awaited && !written(e.path).Equal(first) {
			return false
		}
	}
	return true
}

// isFresh reports whether a bundle was written to a moment ago.
func isFresh(path string) bool { return time.Since(written(path)).Abs() < settled }

// written returns when a bundle was last written to: of a layout, when a file was added to it, or one of its blobs grew.
func written(path string) (last time.Time) {
	const blobs = "blobs/sha256"
	parts := []string{"", "index.json", "blobs", blobs}
	entries, _ := os.ReadDir(filepath.Join(path, blobs)) // an archive has none
	for _, e := range entries {
		parts = append(parts, filepath.Join(blobs, e.Name()))
	}
	for _, part := range parts {
		if info, err := os.Lstat(filepath.Join(path, part)); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// wait reports whether d passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// open opens a bundle. What it takes long to list, as a compressed one does, is remembered from one start to the next; the
// listing is a cache, and one that is lost or damaged is made anew.
func (l *Loader) open(ctx context.Context, path string) (*bundle.Bundle, error) {
	if err := l.work.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer l.work.Release(1)
	file := l.listingFile(path)
	b, err := bundle.Open(ctx, path, readListing(ctx, file).Listing)
	if err != nil {
		return nil, err
	}
	if err := writeListing(file, path, b.Listing()); err != nil {
		log.G(ctx).WithError(err).WithField("bundle", path).Warn("remember what is in a bundle")
	}
	return b, nil
}

func (l *Loader) listingFile(path string) string {
	return filepath.Join(l.Root, "listings", digest.FromString(path).Encoded()+".json")
}

// storedListing is a listing, and the path of its bundle.
type storedListing struct {
	Path string `json:"path"`
	*bundle.Listing
}

// forget removes the listings of bundles that have gone, and what a writeFile that was killed left.
func (l *Loader) forget(ctx context.Context) error {
	dir := filepath.Join(l.Root, "listings")
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	known := map[string]bool{}
	for _, path := range l.catalog.paths() {
		known[l.listingFile(path)] = true
	}
	errs := []error{err}
	for _, f := range files {
		file := filepath.Join(dir, f.Name())
		if known[file] {
			continue
		}
		if hasLeft(readListing(ctx, file).Path) {
			errs = append(errs, os.Remove(file))
		}
	}
	return errors.Join(errs...)
}

// hasLeft reports whether a bundle is gone from its folder. One whose folder is not there or empty is not: that may be mounted later.
func hasLeft(path string) bool {
	others, err := os.ReadDir(filepath.Dir(path))
	return err == nil && len(others) > 0 && isGone(path) || path == ""
}

// readListing returns the zero value for one that is not there or cannot be read.
func readListing(ctx context.Context, file string) storedListing {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return storedListing{}
	}
	var listing storedListing
	if err == nil {
		err = json.Unmarshal(text, &listing)
	}
	if err != nil {
		log.G(ctx).WithError(err).WithField("file", file).Info("listing of a bundle is made anew")
		return storedListing{}
	}
	return listing
}

func writeListing(file, path string, listing *bundle.Listing) error {
	if listing == nil {
		return nil
	}
	text, err := json.Marshal(storedListing{path, listing})
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(file); err == nil && string(old) == string(text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return writeFile(file, text)
}

// newFile begins the names of files that are written.
const newFile = ".new-"

// writeFile replaces a file so that it is whole whenever the power goes.
func writeFile(file string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), newFile)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
