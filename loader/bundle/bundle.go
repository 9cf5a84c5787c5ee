// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package bundle reads images that are shipped as files: docker-save archives, OCI archives and OCI layout
// directories, an archive being plain or compressed as a whole with gzip or zstd.
//
// [Open] lists the images of a bundle, and a [Bundle] then serves their blobs by digest, as a registry would: it is a
// [transfer.Fetcher] and a [content.Provider]. What it is given is told by content, never by name:
//
//	first bytes 1f 8b, or a zstd frame   a compressed archive: decompress, then as below
//	a tar header                         an archive
//	a directory                          a layout
//
//	with the file oci-layout             OCI: the images are those of index.json, the blobs lie in blobs/ALGORITHM/HEX
//	else with the file manifest.json     docker-save: the manifests are made here, byte for byte as containerd's
//	                                     importer makes them, so that digests are those of `ctr image import`
//
// A plain archive is indexed by its headers, and blobs are read at their offsets. A compressed one can only be read
// from its start: [Open] does so once, every [Bundle.Fetch] once more, and [Bundle.Walk] passes all blobs in one go.
//
// A bundle is trusted no more than a registry is. Names in it are keys and never become paths, all that is read is
// bounded (see limits.go), and whoever stores a blob verifies its digest, as containerd's content store does.
package bundle

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	_ transfer.Fetcher = (*Bundle)(nil)
	_ content.Provider = (*Bundle)(nil)
)

// Image is one image of a bundle under one name. An image with several tags is several Images.
type Image struct {
	// Name is the full reference under which `ctr image import` would store the image. A digest in it is that of Target. It is
	// empty if the bundle gives none, or no more than a tag or an id; then no other Image has the same Target.
	Name string
	// Target is the manifest or the index of the image, without annotations. Its platform is kept if the bundle
	// gives it; in a docker-save archive it is that of the image's config.
	Target ocispec.Descriptor
	// Artifact says that Target is no image, by the media types that its manifest lists: a chart, a signature.
	Artifact bool
}

// Referrer is a manifest about an image of the bundle, such as a signature. It is no image, and nothing that a node loads.
type Referrer struct {
	// Subject is the manifest or index that it is about.
	Subject digest.Digest
	// Name is the reference by which it is found, with a tag that says what it is about; "" for one that names its subject itself.
	Name   string
	Target ocispec.Descriptor
}

// ReferrerName is the annotation that holds a [Referrer.Name]. What it is about is in containerd's own annotation, by which
// importers know that it is no image.
const ReferrerName = "io.berth.referrer"

// The formats of bundles, as [Bundle.Format] returns them.
const (
	formatOCIArchive    = "oci-archive"
	formatOCILayout     = "oci-layout"
	formatDockerArchive = "docker-archive"
)

// Bundle is an open bundle. Its methods may be called concurrently, but for Close.
type Bundle struct {
	path   string
	id     identity
	tail   digest.Digest // see tailOf; "" if there is no Listing
	format string
	files  files
	images []Image
	// problems are what is wrong with the other images.
	problems []error
	// referrers are what index.json says is about another manifest.
	referrers []Referrer
	blobs     map[digest.Digest]*blob
	// made are the digests of the manifests that were made here.
	made []digest.Digest
	// For listing only: the names and digests of images, the digests of files, and the files that are JSON.
	listed map[string]bool
	byFile map[*file]digest.Digest
	small  map[*file]bool
	// hashed says that a file was hashed to be listed, which a Listing saves the next time.
	hashed bool
}

// blob is where the content of a digest is: in a file of the bundle, or in data if it was made here.
type blob struct {
	file *file
	data []byte
	size int64
}

// Path returns the path that the bundle was opened by.
func (b *Bundle) Path() string { return b.path }

// Format returns "oci-archive", "oci-layout" or "docker-archive". A docker-save archive that is an OCI archive too,
// as Docker writes since version 25, is "oci-archive": it is read as one.
func (b *Bundle) Format() string { return b.format }

// Images returns the images of the bundle, in its order. A name that the bundle gives to two different images is
// there twice, and is that of the last, as `ctr image import` has it.
func (b *Bundle) Images() []Image { return slices.Clone(b.images) }

// Problems returns what is wrong with the images that the bundle lists and Images leaves out, naming them and the bundle: a
// manifest or config that is absent, damaged or not what its digest says, a name that does not parse, or a link that leads nowhere.
func (b *Bundle) Problems() []error {
	problems := make([]error, 0, len(b.problems))
	for _, err := range b.problems {
		problems = append(problems, fmt.Errorf("open bundle %s: %w", b.path, err))
	}
	return problems
}

// Referrers returns what the bundle holds about its images, in its order. What it says of them is not verified, and a blob of
// one may be absent.
func (b *Bundle) Referrers() []Referrer { return slices.Clone(b.referrers) }

// Has reports whether the bundle holds the content of dgst.
func (b *Bundle) Has(dgst digest.Digest) bool {
	blob, ok := b.blobs[dgst]
	return ok && (blob.file == nil || blob.file.unusable == "")
}

// Compressed reports whether the bundle is compressed as a whole, so that it can only be read from its start.
func (b *Bundle) Compressed() bool {
	_, ok := b.files.(*compressed)
	return ok
}

// Changed reports whether the file at the path of b is no longer the one that was opened, or has been written to
// since, or is gone. Of a layout directory the directory itself and its index.json are looked at.
func (b *Bundle) Changed() bool {
	id, err := identify(b.path)
	return err != nil || id != b.id
}

// Hold keeps the file of b open until release is called: what is read is of that file, though another takes its place. Where
// nobody holds it, it is opened to be read, so that its file system can be unmounted in between.
func (b *Bundle) Hold() (release func()) {
	release, err := b.files.hold()
	if err != nil {
		return func() {} // which whoever reads it is told
	}
	return release
}

// Close closes the files of b. Readers that Fetch and ReaderAt returned fail from then on.
func (b *Bundle) Close() error { return b.files.Close() }

// files are the files in a bundle: the entries of an archive, or the files below a layout directory.
type files interface {
	// find returns the file of a cleaned name.
	find(name string) (*file, bool)
	// isFollowed reports whether another archive follows, which is not read.
	isFollowed() bool
	// all returns the files in the order in which they are read best.
	all() []*file
	// open returns the content of f. Where the bundle is plain the reader is a *section.
	open(ctx context.Context, f *file) (io.ReadCloser, error)
	// hold keeps the file that they are in open until release is called.
	hold() (release func(), err error)
	io.Closer
}

// file is one file in a bundle.
type file struct {
	name string
	size int64
	// offset is where the content begins, in a plain archive.
	offset int64
	// link is what a symbolic link in an archive says.
	link string
	// unusable says why there is no content, in words that follow the name: "is a hard link". Empty if there is.
	unusable string
	// packed is how the content is compressed, where that was looked at; see sniffed.
	packed  compression.Compression
	sniffed bool
	// digest is that of the content, if it was hashed.
	digest digest.Digest
}
