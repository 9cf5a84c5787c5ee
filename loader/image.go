// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/loader/bundle"
)

// Image is one image of a bundle.
type Image struct {
	Bundle *bundle.Bundle
	Target ocispec.Descriptor
	// Names are all that the bundle gives it.
	Names []string

	catalog  *Catalog
	contents contents
	read     atomic.Int64         // bytes
	ranOut   atomic.Pointer[room] // what was free, and not enough, when it was loaded alone

	// Guarded by the catalog.
	owned []string // the names, aliases too, that no bundle before has
	lost  []string // why it does not have the others
	// contested says that another image laid claim to one of the names.
	contested bool
	twin      *Image // the same image in a bundle in front, which has a name of this one
	taken     bool   // to be loaded, in this round

	state State
	err   error
	// broken says that the bundle itself is to blame for err: the image is not tried again until there is another bundle.
	broken bool
}

var _ transfer.ImageFetcher = (*Source)(nil)

// Source is an [Image] under one name, as a pull takes it.
type Source struct {
	image  *Image
	name   string
	target ocispec.Descriptor
}

// NewSource returns an image under a name. A name with the digest of one manifest of an index is that manifest's.
func NewSource(image *Image, name string) *Source {
	s := &Source{image, name, image.Target}
	named, err := reference.ParseNormalizedNamed(name)
	if digested, ok := named.(reference.Digested); ok && err == nil {
		for _, desc := range image.contents.blobs {
			if desc.Digest == digested.Digest() {
				s.target = desc
			}
		}
	}
	return s
}

// Resolve implements [transfer.ImageResolver].
func (s *Source) Resolve(context.Context) (string, ocispec.Descriptor, error) {
	return s.name, s.target, nil
}

// Fetcher implements [transfer.ImageFetcher].
func (s *Source) Fetcher(context.Context, string) (transfer.Fetcher, error) {
	return fetcher{s.image}, nil
}

// Image returns the name, which a transfer's source is known by.
func (s *Source) Image() string { return s.name }

func (s *Source) String() string { return fmt.Sprintf("bundle (%s)", s.image.Bundle.Path()) }

// fetcher reads an image's content from its bundle, and counts it.
type fetcher struct{ image *Image }

// Fetch implements [transfer.Fetcher].
func (f fetcher) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := f.image.Bundle.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	counting := &reader{ReadCloser: r, image: f.image}
	if seeker, ok := r.(io.Seeker); ok {
		return &seekingReader{counting, seeker}, nil
	}
	return counting, nil
}

type reader struct {
	io.ReadCloser
	image *Image
	n     int64
	whole bool
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	r.whole = r.whole || err == io.EOF
	r.image.read.Add(int64(n))
	bytesRead.Add(float64(n))
	return n, err
}

// Close counts as written what was read to its end: the only one who does that is the content store.
func (r *reader) Close() error {
	if r.whole {
		bytesWritten.Add(float64(r.n))
		r.whole = false
	}
	return r.ReadCloser.Close()
}

// seekingReader forwards Seek, or what was half-written could not be taken up.
type seekingReader struct {
	*reader
	io.Seeker
}

// machine is which images are for it.
type machine struct {
	platforms.MatchComparer
	name string // of its platform
}

func machineOf(p ocispec.Platform) machine { return machine{platforms.Only(p), formatted(p)} }

func formatted(p ocispec.Platform) string { return platforms.FormatAll(p) }

// contents is what of an image is for this machine.
type contents struct {
	manifests []digest.Digest      // that a digest in a reference may name
	blobs     []ocispec.Descriptor // indexes, the manifest, its config
	layers    []ocispec.Descriptor
	config    ocispec.Descriptor
	diffIDs   []digest.Digest
}

func (c contents) all() []ocispec.Descriptor { return append(slices.Clone(c.blobs), c.layers...) }

func (c contents) size() (n int64) {
	for _, desc := range c.all() {
		n += desc.Size
	}
	return n
}

// chainID names the snapshot of the whole image; "" if it has no layers.
func (c contents) chainID() string {
	if len(c.diffIDs) == 0 {
		return ""
	}
	return identity.ChainID(slices.Clone(c.diffIDs)).String()
}

// imagesOf returns the images of a bundle, and what is wrong with those that cannot be used.
func imagesOf(ctx context.Context, b *bundle.Bundle, m machine) (found []*Image, problems []error) {
	problems = b.Problems()
	byDigest := map[digest.Digest]*Image{}
	for _, i := range b.Images() {
		if i.Name == "" && i.Artifact {
			continue // such as a signature, which index.json lists beside what it is about
		}
		if i.Name == "" {
			problems = append(problems, fmt.Errorf("image %s of bundle %s has no name: give it a whole one when it is saved, and not only a tag", i.Target.Digest, b.Path()))
			continue
		}
		if image, ok := byDigest[i.Target.Digest]; ok {
			image.Names = append(image.Names, i.Name)
			continue
		}
		image := &Image{Bundle: b, Target: i.Target, Names: []string{i.Name}, state: Waiting}
		var err error
		if i.Artifact {
			image.state = NoImage
		} else if image.contents, err = contentsOf(ctx, b, i.Target, m, 0); err != nil {
			problems = append(problems, problemOf(i.Name, b.Path(), err))
			continue
		}
		byDigest[i.Target.Digest] = image
		found = append(found, image)
	}
	return found, problems
}

const maxNesting = 8

// errNoImage is returned for what containerd cannot run, and is not meant to: a chart, a signature, any other artifact.
var errNoImage = errors.New("a manifest of it is of no image")

// contentsOf goes from an image's target down to the one manifest for this machine. What an index names for other
// platforms need not be in the bundle.
func contentsOf(ctx context.Context, b content.Provider, desc ocispec.Descriptor, m machine, depth int) (contents, error) {
	if depth > maxNesting {
		return contents{}, fmt.Errorf("indexes are nested more than %d deep: %w", maxNesting, errdefs.ErrInvalidArgument)
	}
	children, err := images.Children(ctx, b, desc)
	if err != nil {
		return contents{}, err
	}
	if images.IsManifestType(desc.MediaType) {
		return contentsOfManifest(ctx, b, desc, children, m, depth == 0)
	}
	var others []string
	children = slices.DeleteFunc(children, func(d ocispec.Descriptor) bool {
		if d.Platform != nil && !m.Match(*d.Platform) {
			others = append(others, formatted(*d.Platform))
			return true
		}
		return !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType)
	})
	slices.SortStableFunc(children, func(a, b ocispec.Descriptor) int {
		switch {
		case a.Platform != nil && (b.Platform == nil || m.Less(*a.Platform, *b.Platform)):
			return -1
		case b.Platform != nil && (a.Platform == nil || m.Less(*b.Platform, *a.Platform)):
			return 1
		}
		return 0
	})
	var absent []string
	if len(others) > 0 {
		absent = append(absent, "it is for "+strings.Join(others, ", "))
	}
	for _, child := range children {
		c, err := contentsOf(ctx, b, child, m, depth+1)
		if err == nil {
			c.manifests = append(c.manifests, child.Digest)
			c.blobs = append([]ocispec.Descriptor{desc}, c.blobs...)
			return c, nil
		}
		if !errdefs.IsNotFound(err) && !errors.Is(err, errNoImage) {
			return contents{}, err
		}
		absent = append(absent, err.Error())
	}
	return contents{}, fmt.Errorf("no image for this machine, %s%s: %w", m.name, strings.Join(append([]string{""}, absent...), "; "), errdefs.ErrNotFound)
}

// contentsOfManifest is [contentsOf] of a manifest. One that is an image alone, and not one of an index, may be for another variant
// of this machine's architecture, such as linux/amd64/v2: there is none to prefer, and containerd runs it.
func contentsOfManifest(ctx context.Context, b content.Provider, desc ocispec.Descriptor, children []ocispec.Descriptor, m machine, alone bool) (contents, error) {
	c := contents{blobs: []ocispec.Descriptor{desc}}
	for _, child := range children {
		switch {
		case images.IsLayerType(child.MediaType):
			c.layers = append(c.layers, child)
		case images.IsConfigType(child.MediaType):
			c.config = child
			c.blobs = append(c.blobs, child)
		default:
			c.blobs = append(c.blobs, child)
		}
	}
	if others := len(children) - 1 - len(c.layers); c.config.Digest == "" || len(c.layers) == 0 && others > 0 {
		return contents{}, errNoImage
	}
	text, err := content.ReadBlob(ctx, b, c.config)
	if err != nil {
		return contents{}, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(text, &config); err != nil {
		return contents{}, fmt.Errorf("configuration %s: %w", c.config.Digest, err)
	}
	anyVariant := ocispec.Platform{OS: config.OS, Architecture: config.Architecture}
	if config.OS != "" && !m.Match(config.Platform) && !(alone && m.Match(anyVariant)) {
		return contents{}, fmt.Errorf("it is for %s, this machine is %s: %w", formatted(config.Platform), m.name, errdefs.ErrNotFound)
	}
	c.diffIDs = config.RootFS.DiffIDs
	if len(c.diffIDs) != len(c.layers) {
		return contents{}, fmt.Errorf("number of layers and diffIDs don't match: %d != %d: %w", len(c.layers), len(c.diffIDs), errdefs.ErrInvalidArgument)
	}
	return c, nil
}
