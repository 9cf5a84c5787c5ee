// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const modeLink = fs.ModeSymlink

// Files returns the root file system of an image of one platform, by path: of each file, the one from the topmost
// layer that has it, unless a layer above removed it.
func (img *Image) Files() map[string]File {
	files := map[string]File{}
	for _, l := range img.Layers {
		for _, f := range l.Files {
			dir, base := path.Split(f.Path)
			removed, ok := strings.CutPrefix(base, ".wh.")
			switch {
			case base == ".wh..wh..opq":
				remove(files, dir)
			case ok:
				delete(files, dir+removed)
				remove(files, dir+removed+"/")
			}
		}
		for _, f := range l.Files {
			if !strings.HasPrefix(path.Base(f.Path), ".wh.") {
				files[f.Path] = f
			}
		}
	}
	return files
}

// remove removes the files whose path begins with dir, which ends with a slash.
func remove(files map[string]File, dir string) {
	for name := range files {
		if strings.HasPrefix(name, dir) {
			delete(files, name)
		}
	}
}

// Compare reads the directory root and returns every difference from the image, joined: a file that is missing or was
// not in the image, another type, another mode, other bytes. It returns nil if there is none.
func (img *Image) Compare(root string) error {
	want := img.Files()
	var errs []error
	for path, f := range want {
		if err := f.compare(root); err != nil {
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

// compare compares the file that is at f's path below root.
func (f File) compare(root string) error {
	path := filepath.Join(root, f.Path)
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if f.Link != "" {
		target, err := os.Lstat(filepath.Join(root, f.Link))
		if err != nil {
			return err
		}
		if !os.SameFile(info, target) {
			return fmt.Errorf("got a file of its own, want a hard link to %s", f.Link)
		}
	}
	for name, want := range f.Xattrs {
		value := make([]byte, len(want)+1)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return fmt.Errorf("read attribute %s: %w", name, err)
		}
		if string(value[:n]) != want {
			return fmt.Errorf("got attribute %s %q, want %q", name, value[:n], want)
		}
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
