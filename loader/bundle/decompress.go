// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decompressor reads a compressed bundle from its start. Its errors say what is wrong with the compressed file.
type decompressor struct {
	ctx    context.Context
	kind   string
	r      io.Reader
	close  func()
	src    *source
	buf    *bufio.Reader
	n      int64
	failed error
}

// source reads the file, and remembers how far and what went wrong, to tell that from damaged data.
type source struct {
	io.Reader
	n   int64
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// decompress returns a reader of what f holds. Several may read one file at the same time.
func decompress(ctx context.Context, f *os.File, size int64, packed compression.Compression) (*decompressor, error) {
	src := &source{Reader: io.NewSectionReader(steady{f}, 0, size)}
	d := &decompressor{ctx: ctx, kind: packName(packed), src: src, buf: bufio.NewReaderSize(src, 64<<10), close: func() {}}
	switch packed {
	case compression.Gzip:
		d.r = &gzipMembers{in: d.buf}
	default:
		// With one decoder no goroutine is started, and no more is read than is needed: the ratio is exact.
		z, err := zstd.NewReader(d.buf, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, d.fault(err)
		}
		d.r, d.close = z, z.Close
	}
	return d, nil
}

func packName(packed compression.Compression) string {
	if packed == compression.Gzip {
		return "gzip"
	}
	return "zstd"
}

func (d *decompressor) Read(p []byte) (int, error) {
	if d.failed != nil {
		return 0, d.failed
	}
	if err := d.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := d.r.Read(p)
	d.n += int64(n)
	switch {
	case d.n > freeRatio && d.n/maxRatio > d.consumed():
		d.failed = fmt.Errorf("expands to more than %d times its %s size: %d bytes out of %d", maxRatio, d.kind, d.n, d.consumed())
	case err != nil:
		d.failed = d.fault(err)
	}
	return n, d.failed
}

func (d *decompressor) Close() { d.close() }

// cause returns what went wrong in decompressing, if anything, in place of the error that a reader of d made of it.
func (d *decompressor) cause(err error) error {
	switch {
	case d.failed != nil && !errors.Is(d.failed, io.EOF):
		return d.failed
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the archive in the %s file ends within it, at byte %d", d.kind, d.n)
	}
	return err
}

// headerError is for an error in place of the header after the entry last.
func (d *decompressor) headerError(err error, last string) error {
	if d.failed != nil && !errors.Is(d.failed, io.EOF) {
		return inEntry(last, d.failed)
	}
	return headerError(err, last, d.n, d.n)
}

// consumed returns how much of the file went into what was read.
func (d *decompressor) consumed() int64 { return d.src.n - int64(d.buf.Buffered()) }

// fault puts err into words, unless it came from the file and not from what is in it.
func (d *decompressor) fault(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case d.src.err != nil:
		return d.src.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s stream ends early at byte %d; copy incomplete?", d.kind, d.src.n)
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, zstd.ErrCRCMismatch):
		return fmt.Errorf("%s checksum mismatch", d.kind)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("zstd window is larger than %d MiB; compress with --long=27 or less", maxWindow>>20)
	case errors.Is(err, errTrailing), errors.Is(err, zstd.ErrMagicMismatch):
		return fmt.Errorf("%w %s stream, before byte %d", errTrailing, d.kind, d.consumed())
	}
	return fmt.Errorf("%s stream is damaged before byte %d: %w", d.kind, d.consumed(), err)
}

var errTrailing = errors.New("other data follows the")

// gzipMembers reads one gzip member after the other, so that what follows the last is told from one that is cut off.
type gzipMembers struct {
	in *bufio.Reader
	z  *gzip.Reader
}

func (g *gzipMembers) Read(p []byte) (int, error) {
	if g.z == nil {
		z, err := gzip.NewReader(g.in)
		if err != nil {
			return 0, err
		}
		z.Multistream(false)
		g.z = z
	}
	n, err := g.z.Read(p)
	if n > 0 && errors.Is(err, io.EOF) {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	head, err := g.in.Peek(2)
	switch {
	case len(head) == 0:
		return 0, err
	case head[0] != 0x1f || len(head) == 2 && head[1] != 0x8b:
		return 0, errTrailing
	}
	if err := g.z.Reset(g.in); err != nil {
		return 0, err
	}
	g.z.Multistream(false)
	return 0, nil
}
