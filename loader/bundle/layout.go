// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// layout is an OCI layout directory. Of it only oci-layout, index.json and blobs/ALGORITHM/HEX are ever opened, and
// through an os.Root, so that no symbolic link leads out of it.
type layout struct {
	table
	root *os.Root
}

// openLayout lists the directory at path, which f is. f is closed with the layout.
func openLayout(f *os.File, path string) (_ *layout, err error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, bare(err)
	}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()
	was, err := f.Stat()
	if err != nil {
		return nil, err
	}
	is, err := root.Stat(".")
	if err != nil {
		return nil, err
	}
	if !os.SameFile(was, is) {
		return nil, ErrChanged
	}
	l := &layout{root: root}
	for _, name := range []string{layoutFile, indexFile} {
		if err := l.stat(name); err != nil {
			return nil, err
		}
	}
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		if err := l.readDir(blobsDir + "/" + algorithm.String()); err != nil {
			return nil, err
		}
	}
	f.Close()
	return l, nil
}

// readDir adds the blobs of a directory. One that is absent has none.
func (l *layout) readDir(dir string) error {
	d, err := l.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(names)+len(l.list) > maxFiles {
		return fmt.Errorf("more than %d blobs", maxFiles)
	}
	slices.Sort(names)
	for _, name := range names {
		if name = path.Join(dir, name); blobDigest(name) != "" {
			if err := l.stat(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// stat adds the file of that name, if it exists.
func (l *layout) stat(name string) error {
	info, err := l.root.Stat(name)
	f := &file{name: name}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		f.unusable = "cannot be read: " + bare(err).Error()
	case !info.Mode().IsRegular():
		f.unusable = "is no regular file"
	default:
		f.size = info.Size()
	}
	return l.insert(f)
}

func (l *layout) open(_ context.Context, f *file) (io.ReadCloser, error) {
	file, err := l.root.OpenFile(f.name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != f.size) {
		err = fmt.Errorf("%s: %w", f.name, ErrChanged)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &section{SectionReader: io.NewSectionReader(steady{file}, 0, f.size), close: file.Close}, nil
}

func (l *layout) Close() error { return l.root.Close() }
