// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/opencontainers/go-digest"
)

// compressed is an archive that is compressed as a whole.
type compressed struct {
	table
	*held[*os.File]
	size   int64
	packed compression.Compression
	// kept is the content of small files that were, or may have been, needed to list the bundle.
	kept map[*file][]byte
	keep int64
	// passes counts the times that the file was read from its start while it was listed, and is -1 from then on.
	passes int
}

// openCompressed reads f once, to its end, unless known says what is in it.
func openCompressed(ctx context.Context, f *held[*os.File], size int64, packed compression.Compression, known *Listing) (*compressed, error) {
	c := &compressed{held: f, size: size, packed: packed, kept: map[*file][]byte{}}
	if known != nil {
		return c, known.restore(c)
	}
	var last *file
	followed, err := c.read(ctx, func(hdr *tar.Header, r io.Reader) error {
		entry, err := c.add(hdr)
		if err != nil || entry == nil || entry.unusable != "" {
			return err
		}
		last = entry
		return c.look(entry, r)
	})
	if err != nil && last == nil && errors.Is(err, tar.ErrHeader) {
		return nil, fmt.Errorf("what the %s file holds is not a tar archive", packName(packed))
	}
	if err != nil {
		return nil, err
	}
	c.followed = followed
	return c, c.sameAgain(ctx, c.open)
}

// read calls fn with every entry, and goes on to the end of the file, which is where its checksum is. It reports whether another archive
// follows.
func (c *compressed) read(ctx context.Context, fn func(*tar.Header, io.Reader) error) (followed bool, err error) {
	d, err := c.decompress(ctx)
	if err != nil {
		return false, err
	}
	defer d.Close()
	tr := tar.NewReader(d)
	last := ""
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, d.headerError(err, last)
		}
		last = hdr.Name
		if err := fn(hdr, tr); err != nil {
			return false, inEntry(last, d.cause(err))
		}
	}
	followed = isFollowed(d)
	_, err = io.Copy(io.Discard, d)
	return followed, err
}

func inEntry(name string, err error) error {
	if name == "" {
		return err
	}
	return fmt.Errorf("entry %.128q: %w", name, err)
}

// look reads an entry as it comes by, and keeps of it what listing the bundle may need.
func (c *compressed) look(f *file, r io.Reader) error {
	head := make([]byte, min(f.size, 512))
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	f.packed, f.sniffed = compression.DetectCompression(head), true
	rest := io.MultiReader(bytes.NewReader(head), r)
	switch {
	case f.packed != compression.Uncompressed && digestInName(f.name) == "", c.isAgain(f):
		dgst, err := digest.FromReader(rest)
		f.digest = dgst
		return err
	case f.size <= maxKept-c.keep && worthKeeping(f, head):
		data := make([]byte, f.size)
		if _, err := io.ReadFull(rest, data); err != nil {
			return err
		}
		c.kept[f], c.keep = data, c.keep+f.size
		return nil
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// worthKeeping reports whether f looks like an index, a manifest or a config.
func worthKeeping(f *file, head []byte) bool {
	switch f.name {
	case layoutFile, indexFile, manifestFile:
		return f.size <= maxJSON
	}
	head = bytes.TrimLeft(head, " \t\r\n")
	return f.size <= maxKeptFile && len(head) > 0 && head[0] == '{' && path.Base(f.name) != "json" // of which docker-save had one a layer
}

// listed is called when the bundle is listed: what was kept and turned out not to be needed is dropped.
func (c *compressed) listed(needed map[*file]bool) {
	for f := range c.kept {
		if !needed[f] {
			delete(c.kept, f)
		}
	}
	c.passes = -1
}

// errPasses is returned for a bundle that would have to be read too often to be listed.
var errPasses = fmt.Errorf("has more than %d MiB of manifests and configs; decompress it", maxKept>>20)

// open decompresses up to f, unless it was kept.
func (c *compressed) open(ctx context.Context, want *file) (io.ReadCloser, error) {
	if data, ok := c.kept[want]; ok {
		return bytesSection(data), nil
	}
	if c.passes >= 0 {
		if c.passes++; c.passes > maxPasses {
			return nil, errPasses
		}
	}
	d, err := c.decompress(ctx)
	if err != nil {
		return nil, err
	}
	tr := tar.NewReader(d)
	for {
		hdr, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			err = ErrChanged
		case err != nil:
			err = d.headerError(err, "")
		}
		if err != nil {
			d.Close()
			return nil, err
		}
		if hdr.Typeflag == tar.TypeReg && path.Clean(hdr.Name) == want.name {
			if hdr.Size != want.size {
				d.Close()
				return nil, ErrChanged
			}
			return &stream{tar: tr, d: d, name: want.name}, nil
		}
	}
}

// walk calls fn with the files that are wanted, in one pass to the end of the bundle.
func (c *compressed) walk(ctx context.Context, want func(*file) bool, fn func(*file, io.Reader) error) error {
	visited := map[*file]bool{}
	_, err := c.read(ctx, func(hdr *tar.Header, r io.Reader) error {
		f, ok := c.find(path.Clean(hdr.Name))
		if !ok || hdr.Typeflag != tar.TypeReg || visited[f] || !want(f) {
			return nil
		}
		visited[f] = true
		if hdr.Size != f.size {
			return ErrChanged
		}
		return fn(f, r)
	})
	return err
}

// decompress returns a reader of the archive from its start.
func (c *compressed) decompress(ctx context.Context) (*decompressor, error) {
	f, release, err := c.take()
	if err != nil {
		return nil, err
	}
	d, err := decompress(ctx, f, c.size, c.packed)
	if err != nil {
		release()
		return nil, err
	}
	closing := d.close
	d.close = func() {
		closing()
		release()
	}
	return d, nil
}

// stream is one entry of a compressed bundle.
type stream struct {
	tar  *tar.Reader
	d    *decompressor
	name string
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.tar.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, inEntry(s.name, s.d.cause(err))
}

func (s *stream) Close() error {
	s.d.Close()
	return nil
}
