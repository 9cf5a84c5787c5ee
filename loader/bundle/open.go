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
	"io/fs"
	"os"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Open lists a bundle: a regular file or an OCI layout directory. Anything else, a symbolic link to one included, is an
// error, and so is a bundle with no image in it that can be used; see [Bundle.Problems] for the others of one that has any.
//
// known is what [Bundle.Listing] returned for the same path earlier, or nil. It is used only if it is of the same file,
// by device, inode, size, times and its end, and saves reading what would have to be decompressed or hashed to be listed.
func Open(ctx context.Context, path string, known *Listing) (*Bundle, error) {
	b, err := open(ctx, path, known)
	if err != nil {
		return nil, fmt.Errorf("open bundle %s: %w", path, err)
	}
	return b, nil
}

func open(ctx context.Context, path string, known *Listing) (_ *Bundle, err error) {
	id, err := identify(path)
	if err != nil {
		return nil, err
	}
	f := &held[*os.File]{reopen: func() (*os.File, error) { return openFile(path, id) }}
	release, err := f.hold()
	if err != nil {
		return nil, err
	}
	defer release()
	if known != nil && !known.isOf(id, f) {
		known = nil
	}
	b := &Bundle{path: path, id: id, blobs: map[digest.Digest]*blob{}, listed: map[string]bool{}, byFile: map[*file]digest.Digest{}, small: map[*file]bool{}}
	defer func() {
		if (err == nil || !errors.Is(err, ErrChanged)) && b.Changed() {
			if err == nil {
				err = ErrChanged
			} else {
				err = fmt.Errorf("%w (%w)", ErrChanged, err)
			}
		}
		if err != nil && b.files != nil {
			b.files.Close()
		}
	}()
	files, err := openFiles(ctx, f, path, id, known)
	if err != nil {
		return nil, err
	}
	b.files = files
	err = b.list(ctx)
	b.dropNameless()
	if files.isFollowed() {
		b.problems = append(b.problems, errors.New("another archive follows the first one, and is not read; save all images into one"))
	}
	switch n := len(b.problems); {
	case err != nil || len(b.images) > 0:
	case n == 1:
		err = b.problems[0]
	default:
		err = fmt.Errorf("none of its images can be used; the first of %d faults: %w", n, b.problems[0])
	}
	if err != nil {
		if a, ok := b.files.(*archive); ok && !a.ended {
			err = fmt.Errorf("%w (the file ends without the end mark of a tar archive; copy incomplete?)", err)
		}
		return nil, err
	}
	if c, ok := b.files.(*compressed); ok {
		c.listed(b.small)
	}
	switch {
	case known != nil:
		b.tail = known.Tail
	case b.isRemembered():
		if b.tail, err = tailOf(f); err != nil {
			return nil, err
		}
	}
	b.listed, b.byFile, b.small = nil, nil, nil
	return b, nil
}

// openFiles tells by content what f is.
func openFiles(ctx context.Context, f *held[*os.File], path string, id identity, known *Listing) (files, error) {
	file, release, err := f.take()
	if err != nil {
		return nil, err
	}
	defer release()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openLayout(path, id)
	}
	packed, err := sniff(file, info.Size())
	if err != nil {
		return nil, err
	}
	if packed != compression.Uncompressed {
		return openCompressed(ctx, f, info.Size(), packed, known)
	}
	a, err := openArchive(ctx, f, info.Size())
	if err == nil && known != nil {
		known.restoreDigests(&a.table)
	}
	return a, err
}

// list finds the images. As in containerd's importer a file oci-layout wins over a manifest.json.
func (b *Bundle) list(ctx context.Context) error {
	version, err := b.layoutVersion(ctx)
	if err != nil {
		return err
	}
	_, layout := b.files.(*layout)
	switch {
	case version != "" && version != ocispec.ImageLayoutVersion:
		return fmt.Errorf("unsupported OCI version %s; want %s", version, ocispec.ImageLayoutVersion)
	case version != "":
		b.format = formatOCIArchive
		if layout {
			b.format = formatOCILayout
		}
		return b.listOCI(ctx)
	case layout:
		return errors.New("the directory is no OCI layout: it has no oci-layout; pack a docker-archive as one tar file")
	case len(b.files.all()) == 0:
		return errors.New("contains no entries")
	}
	b.format = formatDockerArchive
	return b.listDocker(ctx)
}

// sniff says how f is compressed, or that it is nothing that this package reads.
func sniff(f *os.File, size int64) (compression.Compression, error) {
	if size == 0 {
		return compression.Unknown, errors.New("empty file")
	}
	head := make([]byte, min(size, 512))
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return compression.Unknown, bare(err)
	}
	if packed := compression.DetectCompression(head); packed != compression.Uncompressed || isTar(head) {
		return packed, nil
	}
	if name := foreign(head); name != "" {
		return compression.Unknown, fmt.Errorf("%s is not supported; use gzip or zstd", name)
	}
	return compression.Unknown, fmt.Errorf("not a tar, gzip or zstd file (starts with %q)", head[:min(8, len(head))])
}

// isTar reports whether head is the header of an entry, by its checksum, or the zeros of an archive without entries.
func isTar(head []byte) bool {
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return len(head) == 512 && !errors.Is(err, tar.ErrHeader)
}

// foreign names what people pack files with that is not read here.
func foreign(head []byte) string {
	for _, f := range []struct{ magic, name string }{
		{"\xfd7zXZ\x00", "xz"},
		{"BZh", "bzip2"},
		{"\x04\x22\x4d\x18", "lz4"},
		{"\x02\x21\x4c\x18", "lz4"},
		{"LZIP", "lzip"},
		{"\x1f\x9d", "compress"},
		{"PK\x03\x04", "zip"},
		{"PK\x05\x06", "zip"},
		{"7z\xbc\xaf\x27\x1c", "7z"},
		{"Rar!", "rar"},
	} {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return f.name
		}
	}
	return ""
}

// bare takes the path out of err, where the message has it already.
func bare(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
