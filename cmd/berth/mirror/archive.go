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
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2/content"
)

// archive is an OCI archive.
type archive struct {
	path    string
	file    *os.File
	entries entries
	stop    func() // ends the writing back, and closes what else the file is written by
}

// entries are what a tar archive is made of. Several may be written at once.
type entries interface {
	write(name string, size int64, r io.Reader) error
	// close writes the end of the archive.
	close() error
}

func newArchive(path string) (*archive, error) {
	file, err := locked(func() (*os.File, error) { return os.CreateTemp(filepath.Dir(path), unfinished(path)) })
	if err != nil {
		return nil, err
	}
	a := &archive{path: path, file: file, stop: writeBack(file)}
	if strings.EqualFold(filepath.Ext(path), ".zst") {
		compressed, err := zstd.NewWriter(file)
		if err != nil {
			a.Discard()
			return nil, err
		}
		a.entries = &stream{tar: tar.NewWriter(compressed), zstd: compressed}
		return a, nil
	}
	plain := &placed{file: file}
	if direct, err := os.OpenFile(file.Name(), os.O_WRONLY|unix.O_DIRECT, 0); err == nil {
		plain.direct = direct
		endWriteBack := a.stop
		a.stop = func() {
			endWriteBack()
			direct.Close()
		}
	}
	a.entries = plain
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
		if err := a.entries.write(f.name, int64(len(text)), bytes.NewReader(text)); err != nil {
			return err
		}
	}
	return nil
}

// Push implements [content.Pusher].
func (a *archive) Push(_ context.Context, desc ocispec.Descriptor, r io.Reader) error {
	verified := content.NewVerifyReader(r, desc)
	err := a.entries.write("blobs/"+desc.Digest.Algorithm().String()+"/"+desc.Digest.Encoded(), desc.Size, verified)
	if err == nil {
		err = verified.Verify()
	}
	if err != nil {
		return fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return nil
}

// Commit implements [Writing].
func (a *archive) Commit() error {
	a.stop()
	err := errors.Join(a.entries.close(), a.file.Chmod(0o644), a.file.Sync(), a.file.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", a.path, err)
	}
	return place(a.file.Name(), a.path)
}

// Discard implements [Writing].
func (a *archive) Discard() {
	a.stop()
	a.file.Close()
	_ = os.Remove(a.file.Name())
}

// writeBackEvery is how long what was written waits until it is on its way to the disk.
const writeBackEvery = 50 * time.Millisecond

// writeBack has the disk write what a file was given, while more of it is still to come, until stop is called: little is left
// to wait for when the file is synced. That tells of errors, this does not.
func writeBack(file *os.File) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		ticks := time.NewTicker(writeBackEvery)
		defer ticks.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
				_ = unix.SyncFileRange(int(file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
			}
		}
	})
	return func() {
		cancel()
		ended.Wait()
	}
}

// stream are the entries of a compressed archive. One follows the other, since where it ends is not known before.
type stream struct {
	zstd *zstd.Encoder

	mu  sync.Mutex
	tar *tar.Writer
}

// smallBlob is the size in bytes up to which a blob is read before it is its turn to be written.
const smallBlob = 4 << 20

func (s *stream) write(name string, size int64, r io.Reader) error {
	if size <= smallBlob {
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		r = bytes.NewReader(text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.tar.WriteHeader(tarHeader(name, size)); err != nil {
		return err
	}
	_, err := io.Copy(s.tar, r)
	return err
}

func (s *stream) close() error { return errors.Join(s.tar.Close(), s.zstd.Close()) }

func tarHeader(name string, size int64) *tar.Header {
	return &tar.Header{Name: name, Mode: 0o644, Size: size, Format: tar.FormatPAX}
}
