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
	*held[*os.Root]
}

// openLayout lists the directory at path, which id was made of.
func openLayout(path string, id identity) (*layout, error) {
	l := &layout{held: &held[*os.Root]{reopen: func() (*os.Root, error) { return openRoot(path, id) }}}
	root, release, err := l.take()
	if err != nil {
		return nil, err
	}
	defer release()
	for _, name := range []string{layoutFile, indexFile} {
		if err := l.stat(root, name); err != nil {
			return nil, err
		}
	}
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		if err := l.readDir(root, blobsDir+"/"+algorithm.String()); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// openRoot opens the directory that id was made of.
func openRoot(path string, id identity) (*os.Root, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, bare(err)
	}
	var st unix.Stat_t
	dir, err := root.Open(".")
	if err == nil {
		err = unix.Fstat(int(dir.Fd()), &st)
		dir.Close()
	}
	if err == nil && !id.isOf(&st) {
		err = ErrChanged
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// readDir adds the blobs of a directory. One that is absent has none.
func (l *layout) readDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
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
			if err := l.stat(root, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// stat adds the file of that name, if it exists.
func (l *layout) stat(root *os.Root, name string) error {
	info, err := root.Stat(name)
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
	root, release, err := l.take()
	if err != nil {
		return nil, err
	}
	defer release()
	file, err := root.OpenFile(f.name, os.O_RDONLY|unix.O_NONBLOCK, 0)
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
	return &section{SectionReader: io.NewSectionReader(steady{file}, 0, f.size), close: func() { file.Close() }}, nil
}
