// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
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
	return os.Rename(d.temp, d.path)
}

func (d *directory) Discard() {
	_ = os.RemoveAll(d.temp)
	d.lock.Close()
}

var layoutVersion = ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}

// archive is an OCI archive: one stream, in which a blob follows the other.
type archive struct {
	path string
	file *os.File
	zstd *zstd.Encoder // nil for a plain one
	tar  *tar.Writer

	writing sync.Mutex
	mu      sync.Mutex
	have    map[digest.Digest]bool // written, or being written
}

func newArchive(path string) (*archive, error) {
	file, err := os.CreateTemp(filepath.Dir(path), unfinished(path))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	a := &archive{path: path, file: file, have: map[digest.Digest]bool{}}
	var to io.Writer = file
	if strings.HasSuffix(path, ".zst") {
		if a.zstd, err = zstd.NewWriter(file); err != nil {
			return nil, err
		}
		to = a.zstd
	}
	a.tar = tar.NewWriter(to)
	return a, nil
}

// Index implements [Layout].
func (a *archive) Index(index ocispec.Index) error {
	for _, f := range []struct {
		name  string
		value any
	}{{ocispec.ImageLayoutFile, layoutVersion}, {ocispec.ImageIndexFile, index}} {
		text, err := json.Marshal(f.value)
		if err != nil {
			return err
		}
		if err := a.write(f.name, int64(len(text)), strings.NewReader(string(text))); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) write(name string, size int64, r io.Reader) error {
	if err := a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := io.Copy(a.tar, r)
	return err
}

// smallBlob is the size in bytes up to which a blob is read before it is its turn to be written.
const smallBlob = 4 << 20

// Push implements [content.Pusher].
func (a *archive) Push(_ context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if !a.claim(desc.Digest) {
		return errdef.ErrAlreadyExists
	}
	if desc.Size <= smallBlob {
		text, err := content.ReadAll(r, desc)
		if err != nil {
			return fmt.Errorf("blob %s: %w", desc.Digest, err)
		}
		return a.append(desc, bytes.NewReader(text))
	}
	verified := content.NewVerifyReader(r, desc)
	if err := a.append(desc, verified); err != nil {
		return err
	}
	if err := verified.Verify(); err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return nil
}

// claim reports whether a blob is still to be written; then it is the caller's.
func (a *archive) claim(dgst digest.Digest) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.have[dgst] {
		return false
	}
	a.have[dgst] = true
	return true
}

func (a *archive) append(desc ocispec.Descriptor, r io.Reader) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	return a.write("blobs/"+desc.Digest.Algorithm().String()+"/"+desc.Digest.Encoded(), desc.Size, r)
}

// Exists implements [content.ReadOnlyStorage].
func (a *archive) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.have[desc.Digest], nil
}

// Fetch implements [content.Fetcher]. What was written is not read again.
func (a *archive) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return nil, fmt.Errorf("read %s of an archive that is being written: %w", desc.Digest, errdef.ErrUnsupported)
}

// Commit implements [Writing].
func (a *archive) Commit() error {
	err := a.tar.Close()
	if a.zstd != nil {
		err = errors.Join(err, a.zstd.Close())
	}
	err = errors.Join(err, a.file.Chmod(0o644), a.file.Sync(), a.file.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", a.path, err)
	}
	return os.Rename(a.file.Name(), a.path)
}

// Discard implements [Writing].
func (a *archive) Discard() {
	a.file.Close()
	_ = os.Remove(a.file.Name())
}
