// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Fetch returns the content of desc, which is not verified. From a plain bundle the reader also seeks and reads at
// offsets; from a compressed one it decompresses what lies before, see [Bundle.Walk]. A blob that the bundle does not
// hold is an [errdefs.ErrNotFound]; one that it holds in another size than desc says is an error.
func (b *Bundle) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	blob, err := b.find(desc)
	if err == nil && blob.file == nil {
		return bytesSection(blob.data), nil
	}
	var r io.ReadCloser
	if err == nil {
		r, err = b.files.open(ctx, blob.file)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch from bundle %s: %w", b.path, err)
	}
	return r, nil
}

// ReaderAt returns the content of desc, of which only the digest is needed. In a compressed bundle the reader is fast
// only when it is read in order: going back reads the bundle from its start.
func (b *Bundle) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	blob, err := b.find(desc)
	if err != nil {
		return nil, fmt.Errorf("read bundle %s: %w", b.path, err)
	}
	if blob.file != nil && b.Compressed() {
		return &rewinder{size: blob.size, open: func() (io.ReadCloser, error) { return b.Fetch(ctx, desc) }}, nil
	}
	r, err := b.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	return r.(*section), nil
}

// find returns the blob of desc.
func (b *Bundle) find(desc ocispec.Descriptor) (*blob, error) {
	d := descriptor{Digest: desc.Digest, Size: desc.Size}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !b.Has(desc.Digest) {
		return nil, fmt.Errorf("%s %s %s: %w", blobKind(desc), desc.Digest, b.absence(desc.Digest), errdefs.ErrNotFound)
	}
	blob := b.blobs[desc.Digest]
	if desc.Size == 0 {
		return blob, nil
	}
	return blob, d.fits(blob.size)
}

// absence says why the bundle has no content for dgst, in words that follow it.
func (b *Bundle) absence(dgst digest.Digest) string {
	if blob, ok := b.blobs[dgst]; ok && blob.file != nil && blob.file.unusable != "" {
		return fmt.Sprintf("would be in %s, which %s", blob.file.name, blob.file.unusable)
	}
	return "is not in the bundle"
}

// Walk reads the bundle once from its start, and calls f with each blob that Has knows, in the order of the bundle;
// the manifests that were made for a docker-save archive come last. f need not read a blob to its end; an error of f
// ends the walk. A compressed bundle is read to its end, and its checksum verified. The blobs themselves are not: a
// caller who has stored them with their digests knows them to be right even if Walk returns an error afterwards.
func (b *Bundle) Walk(ctx context.Context, f func(digest.Digest, int64, io.Reader) error) error {
	err := b.walk(ctx, f)
	if err == nil && b.Changed() {
		err = ErrChanged
	}
	if err != nil {
		return fmt.Errorf("read bundle %s: %w", b.path, err)
	}
	return nil
}

func (b *Bundle) walk(ctx context.Context, f func(digest.Digest, int64, io.Reader) error) error {
	release, err := b.files.hold()
	if err != nil {
		return err
	}
	defer release()
	digests := map[*file]digest.Digest{}
	for dgst, blob := range b.blobs {
		if blob.file != nil && blob.file.unusable == "" {
			digests[blob.file] = dgst
		}
	}
	want := func(f *file) bool { return digests[f] != "" }
	visit := func(file *file, r io.Reader) error { return f(digests[file], file.size, r) }
	if c, ok := b.files.(*compressed); ok {
		if err := c.walk(ctx, want, visit); err != nil {
			return err
		}
	} else if err := walkFiles(ctx, b.files, want, visit); err != nil {
		return err
	}
	for _, made := range b.made {
		if err := f(made, b.blobs[made].size, bytes.NewReader(b.blobs[made].data)); err != nil {
			return err
		}
	}
	return nil
}

func walkFiles(ctx context.Context, in files, want func(*file) bool, fn func(*file, io.Reader) error) error {
	for _, f := range in.all() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !want(f) {
			continue
		}
		r, err := in.open(ctx, f)
		if err != nil {
			return err
		}
		err = fn(f, r)
		r.Close()
		if err != nil {
			return inEntry(f.name, err)
		}
	}
	return nil
}

// Check reads the blob of desc and says what is wrong with it, naming its entry: that it is absent, that it cannot be
// read, its length, or its digest. It is for after a load that failed.
func (b *Bundle) Check(ctx context.Context, desc ocispec.Descriptor) error {
	err := b.check(ctx, desc)
	if err != nil {
		return fmt.Errorf("check bundle %s: %w", b.path, err)
	}
	return nil
}

func (b *Bundle) check(ctx context.Context, desc ocispec.Descriptor) error {
	blob, err := b.find(desc)
	if err != nil || blob.file == nil {
		return err
	}
	r, err := b.files.open(ctx, blob.file)
	if err != nil {
		return inEntry(blob.file.name, err)
	}
	defer r.Close()
	got, err := hash(ctx, desc.Digest.Algorithm(), r)
	switch {
	case err != nil:
		return inEntry(blob.file.name, err)
	case got == desc.Digest:
		return nil
	case strings.Contains(blob.file.name, desc.Digest.Encoded()):
		return inEntry(blob.file.name, misnamed(desc.Digest, got))
	}
	return inEntry(blob.file.name, fmt.Errorf("blob %s is expected here, but its content is %s", desc.Digest, got))
}

// hash returns the digest of what r holds.
func hash(ctx context.Context, algorithm digest.Algorithm, r io.Reader) (digest.Digest, error) {
	digester := algorithm.Digester()
	if _, err := io.CopyBuffer(digester.Hash(), &cancelled{ctx, r}, make([]byte, 256<<10)); err != nil {
		return "", err
	}
	return digester.Digest(), nil
}

// cancelled reads until ctx is done.
type cancelled struct {
	ctx context.Context
	io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}

// blobKind names what desc describes in errors.
func blobKind(desc ocispec.Descriptor) string {
	switch {
	case images.IsLayerType(desc.MediaType):
		return "layer"
	case images.IsManifestType(desc.MediaType):
		return "manifest"
	case images.IsIndexType(desc.MediaType):
		return "index"
	case images.IsConfigType(desc.MediaType):
		return "config"
	}
	return "blob"
}
