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
	sweep(path)
	if strings.HasSuffix(path, "/") {
		return newDirectory(filepath.Clean(path))
	}
	return newArchive(path)
}

// unfinished is how the names begin of what is not a whole bundle yet.
func unfinished(path string) string { return "." + filepath.Base(path) + "." }

// sweep removes what runs that were killed left of a bundle. What another run is writing is locked.
func sweep(path string) {
	dir := filepath.Dir(filepath.Clean(path))
	entries, _ := os.ReadDir(dir) // that it cannot be read is said when it is written to
	for _, entry := range entries {
		number, ok := strings.CutPrefix(entry.Name(), unfinished(path))
		if _, err := strconv.ParseUint(number, 10, 64); !ok || err != nil {
			continue
		}
		left := filepath.Join(dir, entry.Name())
		f, err := os.Open(left)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(left)
		}
		f.Close()
	}
}

// Writing is a layout that is being written.
type Writing interface {
	Layout
	// Commit puts the bundle into its place.
	Commit() error
	// Discard removes what was written, unless it was committed.
	Discard()
}

// directory is an OCI layout directory. The list of images is written last.
type directory struct {
	*oci.Storage
	lock       *os.File // the directory, see sweep
	temp, path string
	index      ocispec.Index
}

func newDirectory(path string) (*directory, error) {
	temp, err := os.MkdirTemp(filepath.Dir(path), unfinished(path))
	if err != nil {
		return nil, err
	}
	d := &directory{temp: temp, path: path}
	if d.Storage, err = oci.NewStorage(temp); err == nil {
		d.lock, err = os.Open(temp)
	}
	if err == nil {
		err = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		d.Discard()
		return nil, err
	}
	return d, nil
}

func (d *directory) Index(index ocispec.Index) error {
	d.index = index
	return nil
}

func (d *directory) Commit() error {
	for name, value := range map[string]any{ocispec.ImageLayoutFile: layoutVersion, ocispec.ImageIndexFile: d.index} {
		text, err := json.Marshal(value)
		if err == nil {
			err = os.WriteFile(filepath.Join(d.temp, name), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if err := os.Chmod(d.temp, 0o755); err != nil {
		return err
	}
	if err := unix.Syncfs(int(d.lock.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", d.temp, err)
	}
	return place(d.temp, d.path)
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

func (d *directory) Discard() {
	_ = os.RemoveAll(d.temp)
	d.lock.Close()
}

var layoutVersion = ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}
