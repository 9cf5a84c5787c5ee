// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const modeLink = fs.ModeSymlink

// Files returns the root file system of an image of one platform, by path: of each file, the one from the topmost
// layer that has it.
func (img *Image) Files() map[string]File {
	files := map[string]File{}
	for _, l := range img.Layers {
		for _, f := range l.Files {
			files[f.Path] = f
		}
	}
	return files
}

// Compare reads the directory root and returns every difference from the image, joined: a file that is missing or was
// not in the image, another type, another mode, other bytes. It returns nil if there is none.
func (img *Image) Compare(root string) error {
	want := img.Files()
	var errs []error
	for path, f := range want {
		if err := f.compare(filepath.Join(root, path)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
	}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if _, ok := want[rel]; !ok && rel != "." {
			errs = append(errs, fmt.Errorf("%s: not in the image", rel))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

func (f File) compare(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode() != f.Mode {
		return fmt.Errorf("got mode %s, want %s", info.Mode(), f.Mode)
	}
	var got []byte
	switch f.Mode.Type() {
	case fs.ModeDir:
		return nil
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		got = []byte(target)
	default:
		if got, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	if !bytes.Equal(got, f.Data) {
		return fmt.Errorf("got %d bytes, want %d; they differ", len(got), len(f.Data))
	}
	return nil
}
