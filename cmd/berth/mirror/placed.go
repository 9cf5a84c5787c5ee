// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// placed are the entries of a plain archive. Each has its place in the file before its first byte is there, so that none waits
// for another.
type placed struct {
	file *os.File
	// direct writes whole pages to the file past the page cache, nil for not at all. A bundle is large, and not read here: so it
	// is copied once less, takes no memory from others, and is on the disk as soon as it is written.
	direct io.WriterAt

	mu   sync.Mutex
	end  int64    // of what has a place
	free [][]byte // buffers, of which there are as many as blobs came at once
}

const (
	// tarBlock is what entries are padded to; two of zeros end an archive (pax in POSIX.1). A file is zero where nothing is written.
	tarBlock = 512
	// atOnceBytes is how much of a blob goes into the file at once: a huge page of most machines.
	atOnceBytes = 2 << 20
	// directBytes is how much is worth a write past the page cache.
	directBytes = 512 << 10
)

var pageBytes = int64(os.Getpagesize())

func (p *placed) write(name string, size int64, r io.Reader) error {
	var header bytes.Buffer
	if err := tar.NewWriter(&header).WriteHeader(tarHeader(name, size)); err != nil {
		return err
	}
	left := int64(header.Len()) + size
	p.mu.Lock()
	at := p.end
	p.end += (left + tarBlock - 1) / tarBlock * tarBlock
	p.mu.Unlock()

	buffer := p.buffer()
	defer p.release(buffer)
	for r = io.MultiReader(&header, r); left > 0; {
		text := buffer[at%pageBytes:] // a page in the file is one in memory, too, so that it can be written directly
		text = text[:min(left, int64(len(text)))]
		if _, err := io.ReadFull(r, text); err != nil {
			return err
		}
		if err := p.writeAt(text, at); err != nil {
			return err
		}
		at += int64(len(text))
		left -= int64(len(text))
	}
	return nil
}

func (p *placed) buffer() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.free) - 1; last >= 0 {
		buffer := p.free[last]
		p.free = p.free[:last]
		return buffer
	}
	return newBuffer()
}

// newBuffer returns a buffer that is one huge page where the machine has them: a disk takes it as one piece, and not as hundreds.
func newBuffer() []byte {
	room := make([]byte, 2*atOnceBytes) // of which half is never used, and so no memory
	begin := -uintptr(unsafe.Pointer(unsafe.SliceData(room))) % atOnceBytes
	buffer := room[begin : begin+atOnceBytes]
	_ = unix.Madvise(buffer, unix.MADV_HUGEPAGE) // without it the buffer is as good, but slower
	return buffer
}

func (p *placed) release(buffer []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, buffer)
}

// writeAt writes whole pages directly, unless they are few, and what is before and behind them through the page cache. No page
// is written in both ways.
func (p *placed) writeAt(text []byte, at int64) error {
	head := (pageBytes - at%pageBytes) % pageBytes
	pages := (int64(len(text)) - head) / pageBytes * pageBytes
	if p.direct == nil || pages < directBytes {
		_, err := p.file.WriteAt(text, at)
		return err
	}
	tail := head + pages
	_, err := p.direct.WriteAt(text[head:tail], at+head)
	if errors.Is(err, unix.EINVAL) { // some file systems refuse only now
		_, err = p.file.WriteAt(text[head:tail], at+head)
	}
	_, headErr := p.file.WriteAt(text[:head], at)
	_, tailErr := p.file.WriteAt(text[tail:], at+tail)
	return errors.Join(err, headErr, tailErr)
}

func (p *placed) close() error { return p.file.Truncate(p.end + 2*tarBlock) }
