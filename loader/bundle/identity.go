// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrChanged is in the errors about a bundle that was written to or replaced while it was read. Trying again, once it
// stays as it is, may help.
var ErrChanged = errors.New("the file changed while it was read")

// identity tells whether a path still leads to the same file with the same content, as far as a look at the inode can
// tell. A directory is told by its inode and by its index.json, which names all that is in it.
type identity struct {
	File  stamp `json:"file"`
	Index stamp `json:"index"`
}

// stamp is what an inode says of a file. Times are in nanoseconds.
type stamp struct {
	Device   uint64 `json:"device"`
	Inode    uint64 `json:"inode"`
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"`
	Changed  int64  `json:"changed"`
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{Device: uint64(st.Dev), Inode: st.Ino, Size: st.Size, Modified: st.Mtim.Nano(), Changed: st.Ctim.Nano()} //nolint:unconvert // Dev is 32 bits wide elsewhere
}

// identify looks at path without opening it, and refuses what is neither a regular file nor a directory.
func identify(path string) (identity, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return identity{}, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return identity{File: stampOf(&st)}, nil
	case unix.S_IFDIR:
		id := identity{File: stamp{Device: uint64(st.Dev), Inode: st.Ino}} //nolint:unconvert // as above
		if err := unix.Lstat(filepath.Join(path, indexFile), &st); err == nil {
			id.Index = stampOf(&st)
		}
		return id, nil
	}
	return identity{}, fmt.Errorf("is %s, not a regular file or a directory", modeName(st.Mode))
}

func modeName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a device"
}

// openFile opens the path that id was made of. It never blocks, and opens no other file that came there in between, nor one that
// was written to: what is known of it may lie elsewhere now.
func openFile(path string, id identity) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, bare(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, err
	}
	if !id.isOf(&st) {
		f.Close()
		return nil, ErrChanged
	}
	return f, nil
}

// isOf reports whether id is of the file or directory that st is of, which may have other rights and names by now. The inode of a
// file does not tell: that of one that was removed is soon another's, and on FAT one that nobody has open gets another.
func (id identity) isOf(st *unix.Stat_t) bool {
	is := stampOf(st)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return is.Device == id.File.Device && is.Inode == id.File.Inode
	}
	return is.Device == id.File.Device && is.Size == id.File.Size && is.Modified == id.File.Modified
}
