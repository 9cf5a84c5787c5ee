// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pagesOf takes whole pages only, as a disk does, or refuses all with err.
type pagesOf struct {
	t    *testing.T
	file *os.File
	err  error

	mu    sync.Mutex
	bytes int64
}

func (p *pagesOf) WriteAt(text []byte, at int64) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	if memory := uintptr(unsafe.Pointer(&text[0])); at%pageBytes != 0 || int64(len(text))%pageBytes != 0 || int64(memory)%pageBytes != 0 {
		p.t.Errorf("%d bytes from %#x to %d: these are no pages", len(text), memory, at)
	}
	p.mu.Lock()
	p.bytes += int64(len(text))
	p.mu.Unlock()
	return p.file.WriteAt(text, at)
}

// TestPlacedDirectly writes blobs of many sizes at once. Most of what is large goes directly to the disk, in pages; where a
// file system refuses that, it goes through the page cache; where the disk fails, so does the archive.
func TestPlacedDirectly(t *testing.T) {
	sizes := []int64{1, tarBlock, atOnceBytes - 1, atOnceBytes, 2*atOnceBytes + 1, 5*atOnceBytes - tarBlock, 9*atOnceBytes + 4097}
	for _, tt := range []struct {
		name    string
		refuses error
		direct  int64 // bytes at least
		wantErr error
	}{
		{"taken", nil, 15 * atOnceBytes, nil},
		{"refused", unix.EINVAL, 0, nil},
		{"fails", unix.EIO, 0, unix.EIO},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cluster.tar")
			file, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			direct := &pagesOf{t: t, file: file, err: tt.refuses}
			p := &placed{file: file, direct: direct}
			want := map[string][]byte{}
			written := make(chan error)
			for _, size := range sizes {
				desc, text := random(size)
				name := desc.Digest.Encoded()
				want[name] = text
				go func() { written <- p.write(name, size, bytes.NewReader(text)) }()
			}
			var failed error
			for range sizes {
				failed = errors.Join(failed, <-written)
			}
			if !errors.Is(failed, tt.wantErr) {
				t.Fatalf("got %v, want %v", failed, tt.wantErr)
			}
			if tt.wantErr != nil {
				return
			}
			if err := p.close(); err != nil {
				t.Fatal(err)
			}
			got := readTar(t, path)
			for name, text := range want {
				if !bytes.Equal(got[name], text) {
					t.Errorf("%s: got %d bytes that are not the %d written", name, len(got[name]), len(text))
				}
			}
			if direct.bytes < tt.direct {
				t.Errorf("got %d bytes written directly, want %d at least", direct.bytes, tt.direct)
			}
		})
	}
}

// TestPlacedCacheFails writes what begins or ends within a page, where the page cache takes neither.
func TestPlacedCacheFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	for _, tt := range []struct{ at, size int64 }{{0, 2*directBytes + 1}, {tarBlock, 2*directBytes - 2*tarBlock}} {
		p := &placed{file: readOnly, direct: &pagesOf{t: t, file: file}, end: tt.at}
		_, text := random(tt.size)
		if err := p.write("blob", tt.size, bytes.NewReader(text)); !errors.Is(err, unix.EBADF) {
			t.Errorf("%d bytes at %d: got %v, want %v", tt.size, tt.at, err, unix.EBADF)
		}
	}
}

// TestPlacedReadFails says why a blob could not be read, and leaves the place of the next one alone.
func TestPlacedReadFails(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "cluster.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := &placed{file: file}
	lost := errors.New("connection lost")
	if err := p.write("lost", 10, iotest.ErrReader(lost)); !errors.Is(err, lost) {
		t.Errorf("got %v, want %v", err, lost)
	}
	if err := p.write("short", 10, bytes.NewReader(make([]byte, 9))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if err := p.write("long", tarBlock, bytes.NewReader(bytes.Repeat([]byte("x"), 3*tarBlock))); err != nil {
		t.Error(err)
	}
	if info, err := file.Stat(); err != nil || info.Size() > p.end {
		t.Errorf("got %v, %v; want no byte behind the places, which end at %d", info, err, p.end)
	}
}

// TestArchiveIsNotCached writes an archive, and finds little of it in the page cache.
func TestArchiveIsNotCached(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cluster.tar")
	layout, err := NewLayout(path)
	if err != nil {
		t.Fatal(err)
	}
	defer layout.Discard()
	if layout.(*archive).entries.(*placed).direct == nil || inMemory(t, dir) {
		t.Skip("the file system of the temporary directory has all writes go through the page cache")
	}
	desc, text := random(8 * atOnceBytes)
	if err := layout.Push(t.Context(), desc, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if err := layout.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := cachedBytes(t, path); got > desc.Size/4 {
		t.Errorf("got %d of %d bytes in the page cache", got, desc.Size)
	}
}

// inMemory reports whether a file system is nothing but page cache.
func inMemory(t *testing.T, dir string) bool {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	magic := uint32(stat.Type) // another type on each architecture
	return magic == unix.TMPFS_MAGIC || magic == unix.RAMFS_MAGIC
}

func cachedBytes(t *testing.T, path string) (cached int64) {
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	resident := make([]byte, (info.Size()+pageBytes-1)/pageBytes)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&memory[0])), uintptr(len(memory)), uintptr(unsafe.Pointer(&resident[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, page := range resident {
		cached += int64(page&1) * pageBytes
	}
	return cached
}
