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

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/loader/bundle"
)

// open opens a bundle. What it takes long to list, as a compressed one does, is remembered from one start to the next; the
// listing is a cache, and one that is lost or damaged is made anew.
func (l *Loader) open(ctx context.Context, path string) (*bundle.Bundle, error) {
	if err := l.work.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer l.work.Release(1)
	file := l.listingFile(path)
	b, err := bundle.Open(ctx, path, readListing(ctx, file))
	if err != nil {
		return nil, err
	}
	if err := writeListing(file, b.Listing()); err != nil {
		log.G(ctx).WithError(err).WithField("bundle", path).Warn("remember what is in a bundle")
	}
	return b, nil
}

func (l *Loader) listingFile(path string) string {
	return filepath.Join(l.Root, "listings", digest.FromString(path).Encoded()+".json")
}

func readListing(ctx context.Context, file string) *bundle.Listing {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var listing bundle.Listing
	if err == nil {
		err = json.Unmarshal(text, &listing)
	}
	if err != nil {
		log.G(ctx).WithError(err).WithField("file", file).Info("listing of a bundle is made anew")
		return nil
	}
	return &listing
}

func writeListing(file string, listing *bundle.Listing) error {
	if listing == nil {
		return nil
	}
	text, err := json.Marshal(listing)
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

// writeFile replaces a file so that it is whole whenever the power goes.
func writeFile(file string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-")
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
