// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2/content/oci"
)

// NewLayout makes a bundle at path: an OCI layout directory if that ends in a slash, else an OCI archive, compressed with zstd
// if it ends in .zst. It is there, whole, once it is committed; until then nothing is at path.
func NewLayout(path string) (Writing, error) {
	if _, err := os.Lstat(strings.TrimSuffix(path, "/")); err == nil {
		return nil, fmt.Errorf("write %s: %w; remove it, or choose another name", path, fs.ErrExist)
	}
	sweep(filepath.Dir(filepath.Clean(path)), unfinished(path))
	if strings.HasSuffix(path, "/") {
		return newDirectory(filepath.Clean(path))
	}
	return newArchive(path)
}

// unfinished is how the names begin of what is not a whole bundle yet.
func unfinished(path string) string { return "." + filepath.Base(path) + "." }

// sweep removes what runs that were killed left in dir under names of prefix and a number. What another run uses is locked.
func sweep(dir, prefix string) {
	entries, _ := os.ReadDir(dir) // that it cannot be read is said when it is written to
	for _, entry := range entries {
		number, ok := strings.CutPrefix(entry.Name(), prefix)
		if _, err := strconv.ParseUint(number, 10, 64); !ok || err != nil {
			continue
		}
		left := filepath.Join(dir, entry.Name())
		f, err := os.OpenFile(left, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) // others may write to dir
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(left)
		}
		f.Close()
	}
}

// locked returns a new file or directory of create that sweep leaves alone. A sweep of another run that finds it before it is
// locked removes it, and another is made.
func locked(create func() (*os.File, error)) (f *os.File, err error) {
	for range 10 {
		if f, err = create(); err != nil {
			continue
		}
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
		var is, there fs.FileInfo
		if is, err = f.Stat(); err == nil {
			there, err = os.Lstat(f.Name())
		}
		if err == nil && os.SameFile(is, there) {
			return f, nil
		}
		f.Close()
	}
	return nil, err
}

// Writing is a layout that is being written.
type Writing interface {
	Layout
	// Commit puts the bundle into its place.
	Commit() error
	// Discard removes what was written, unless it was committed.
	Discard()
}

// blobs are those of an OCI layout, in a directory that sweep leaves alone.
type blobs struct {
	*oci.Storage
	dir *os.File // locked
}

// newBlobs makes a directory in dir, under a name of prefix and a number, which the caller removes.
func newBlobs(dir, prefix string) (blobs, error) {
	var b blobs
	var err error
	b.dir, err = locked(func() (*os.File, error) {
		temp, err := os.MkdirTemp(dir, prefix)
		if err != nil {
			return nil, err
		}
		return os.Open(temp)
	})
	if err != nil {
		return blobs{}, err
	}
	if b.Storage, err = oci.NewStorage(b.dir.Name()); err != nil {
		return blobs{}, errors.Join(err, b.remove())
	}
	return b, nil
}

func (b blobs) remove() error { return errors.Join(os.RemoveAll(b.dir.Name()), b.dir.Close()) }

// directory is an OCI layout directory. The list of images is written last.
type directory struct {
	blobs
	path  string
	index ocispec.Index
}

func newDirectory(path string) (*directory, error) {
	b, err := newBlobs(filepath.Dir(path), unfinished(path))
	if err != nil {
		return nil, err
	}
	return &directory{blobs: b, path: path}, nil
}

func (d *directory) Index(index ocispec.Index) error {
	d.index = index
	return nil
}

func (d *directory) Commit() error {
	for name, value := range map[string]any{ocispec.ImageLayoutFile: layoutVersion, ocispec.ImageIndexFile: d.index} {
		text, err := json.Marshal(value)
		if err == nil {
			err = os.WriteFile(filepath.Join(d.dir.Name(), name), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if err := d.dir.Chmod(0o755); err != nil {
		return err
	}
	if err := unix.Syncfs(int(d.dir.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", d.dir.Name(), err)
	}
	return place(d.dir.Name(), d.path)
}

// place gives what was written, and is on disk, the name of the bundle for good.
func place(temp, path string) error {
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (d *directory) Discard() { _ = d.remove() }

var layoutVersion = ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}
