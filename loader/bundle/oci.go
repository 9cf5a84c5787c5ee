// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	layoutFile = ocispec.ImageLayoutFile
	indexFile  = ocispec.ImageIndexFile
	blobsDir   = ocispec.ImageBlobsDir
)

// layoutVersion returns what the file oci-layout says, and "" if there is none.
func (b *Bundle) layoutVersion(ctx context.Context) (string, error) {
	f, ok := b.files.find(layoutFile)
	if !ok {
		return "", nil
	}
	data, err := b.readJSON(ctx, f)
	if err != nil {
		return "", err
	}
	var layout ocispec.ImageLayout
	err = parseJSON(layoutFile, data, &layout)
	return layout.Version, err
}

// listOCI lists the images of index.json.
func (b *Bundle) listOCI(ctx context.Context) error {
	for _, f := range b.files.all() {
		if dgst := blobDigest(f.name); dgst != "" {
			b.blobs[dgst] = &blob{file: f, size: f.size}
		}
	}
	f, ok := b.files.find(indexFile)
	if !ok {
		return fmt.Errorf("missing %s in OCI layout %s", indexFile, ocispec.ImageLayoutVersion)
	}
	data, err := b.readJSON(ctx, f)
	if err != nil {
		return err
	}
	top, err := parseIndex(indexFile, data)
	if err != nil {
		return err
	}
	g := graph{bundle: b, seen: map[place]node{}}
	for _, desc := range top.Manifests {
		if err := b.refuse(b.addOCI(ctx, &g, desc)); err != nil {
			return err
		}
	}
	if len(b.images)+len(b.problems) == 0 {
		return fmt.Errorf("%s lists no image", indexFile)
	}
	return nil
}

// addOCI adds the image of a descriptor of index.json, if it is of one, or the referrer.
func (b *Bundle) addOCI(ctx context.Context, g *graph, desc descriptor) error {
	name, err := desc.Annotations.name()
	if err != nil {
		return fmt.Errorf("%s: %w", indexFile, err)
	}
	if name == "" && desc.Annotations.Subject != "" {
		b.referrers = append(b.referrers, Referrer{
			Subject: desc.Annotations.Subject, Name: desc.Annotations.Referrer,
			Target: ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size},
		})
		return nil
	}
	image := name
	if image == "" {
		image = desc.Digest.String()
	}
	n, err := g.visit(ctx, desc, 1)
	switch {
	case err != nil:
		return fmt.Errorf("image %s: %w", image, err)
	case name == "" && (n.other || desc.attestation()):
		return nil
	case n.other:
		return fmt.Errorf("image %s: media type %q is neither a manifest nor an index", image, desc.MediaType)
	case n.missing != nil:
		return fmt.Errorf("image %s: %w: %w", image, n.missing, errdefs.ErrNotFound)
	}
	return b.addImage(Image{Name: name, Target: desc.target(), Artifact: n.artifact})
}

// addImage adds an image, once. A name with the digest of something else is refused: who asks for that digest must not get this.
func (b *Bundle) addImage(image Image) error {
	named, err := reference.ParseNormalizedNamed(image.Name)
	if digested, ok := named.(reference.Digested); ok && err == nil && digested.Digest() != image.Target.Digest {
		return fmt.Errorf("image %.300s: under this name the bundle has %s; save all platforms of it, or name it by a tag", image.Name, image.Target.Digest)
	}
	key := image.Name + "\n" + image.Target.Digest.String()
	if b.listed[key] {
		return nil
	}
	b.listed[key] = true
	if len(b.images) == maxManifests {
		return errTooMany
	}
	b.images = append(b.images, image)
	return nil
}

// dropNameless takes an image away that has no name in one place and a name in another.
func (b *Bundle) dropNameless() {
	named := map[digest.Digest]bool{}
	for _, image := range b.images {
		named[image.Target.Digest] = named[image.Target.Digest] || image.Name != ""
	}
	b.images = slices.DeleteFunc(b.images, func(i Image) bool { return i.Name == "" && named[i.Target.Digest] })
}

// errTooMany is returned for a bundle with more than maxManifests images.
var errTooMany = fmt.Errorf("more than %d images", maxManifests)

// refuse notes what is wrong with one image: the others can be used. It returns err if it is about more than that image.
func (b *Bundle) refuse(err error) error {
	var machine syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.As(err, &machine), errors.Is(err, ErrChanged), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, errTooMany), errors.Is(err, errPasses):
		return err
	case len(b.problems) == maxManifests:
		return errTooMany
	}
	b.problems = append(b.problems, err)
	return nil
}

// blobDigest returns the digest that blobs/ALGORITHM/HEX is named for, or "" for any other name.
func blobDigest(name string) digest.Digest {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[0] != blobsDir {
		return ""
	}
	dgst := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2])
	if dgst.Validate() != nil {
		return ""
	}
	return dgst
}

// graph follows descriptors down to configs and layers, as far as the bundle holds them.
type graph struct {
	bundle *Bundle
	seen   map[place]node
}

// place is where a document was read, and as what: a document must not pass as an index because it passed as a manifest.
type place struct {
	dgst  digest.Digest
	index bool
}

// node is what was found at a descriptor.
type node struct {
	// other is neither a manifest nor an index.
	other bool
	// missing says what the image lacks to be one.
	missing error
	// artifact is a manifest of something else than an image, or an index of nothing but such.
	artifact bool
	// height is the number of indexes from this one down to the lowest, 0 for a manifest.
	height int
	// err is what is wrong with it, or below it.
	err error
}

// visit reads desc, which has depth-1 indexes above it, and all that the bundle holds below it.
func (g *graph) visit(ctx context.Context, desc descriptor, depth int) (node, error) {
	if isSchema1(desc.MediaType) {
		return node{}, fmt.Errorf("%s: %w", desc.Digest, errSchema1)
	}
	isIndex := images.IsIndexType(desc.MediaType)
	if !isIndex && !images.IsManifestType(desc.MediaType) {
		return node{other: true}, nil
	}
	at := place{desc.Digest, isIndex}
	n, ok := g.seen[at]
	if isIndex && depth-1+max(n.height, 1) > maxDepth {
		return node{}, fmt.Errorf("indexes are nested more than %d deep, or in a circle, at %s", maxDepth, desc.Digest)
	}
	if !g.bundle.Has(desc.Digest) {
		return node{missing: fmt.Errorf("%s %s %s", blobKind(desc.target()), desc.Digest, g.bundle.absence(desc.Digest))}, nil
	}
	if err := desc.fits(g.bundle.blobs[desc.Digest].size); err != nil {
		return node{}, err
	}
	if !ok {
		n = g.read(ctx, desc, depth)
		g.seen[at] = n
	}
	return n, n.err
}

func (g *graph) read(ctx context.Context, desc descriptor, depth int) (n node) {
	data, err := g.bundle.blobJSON(ctx, desc)
	switch {
	case err != nil:
	case images.IsIndexType(desc.MediaType):
		n, err = g.visitIndex(ctx, desc, data, depth)
	default:
		n, err = g.visitManifest(desc, data)
	}
	n.err = err
	return n
}

func (g *graph) visitIndex(ctx context.Context, desc descriptor, data []byte, depth int) (node, error) {
	x, err := parseIndex(desc.Digest.String(), data)
	if err != nil {
		return node{}, err
	}
	n := node{height: 1}
	whole, why := false, errors.New("it lists none")
	for _, child := range x.Manifests {
		c, err := g.visit(ctx, child, depth+1)
		if err != nil {
			return n, err
		}
		n.height = max(n.height, c.height+1)
		if c.missing != nil {
			why = c.missing
		}
		if c.missing == nil && !c.other {
			n.artifact = c.artifact && (n.artifact || !whole)
			whole = true
		}
	}
	if !whole {
		n.missing = fmt.Errorf("none of the %d manifests of its index %s is in the bundle with its config: %w", len(x.Manifests), desc.Digest, why)
	}
	return n, nil
}

func (g *graph) visitManifest(desc descriptor, data []byte) (node, error) {
	m, err := parseManifest(desc.Digest.String(), data)
	if err != nil {
		return node{}, err
	}
	for _, part := range append(m.Layers, m.Config) {
		if !g.bundle.Has(part.Digest) {
			continue
		}
		if err := part.fits(g.bundle.blobs[part.Digest].size); err != nil {
			return node{}, err
		}
	}
	if config, ok := g.bundle.blobs[m.Config.Digest]; ok {
		g.bundle.small[config.file] = true
	}
	if !g.bundle.Has(m.Config.Digest) {
		return node{missing: fmt.Errorf("config %s of manifest %s %s", m.Config.Digest, desc.Digest, g.bundle.absence(m.Config.Digest))}, nil
	}
	isLayer := func(d descriptor) bool { return images.IsLayerType(d.MediaType) }
	isImage := images.IsConfigType(m.Config.MediaType) && (len(m.Layers) == 0 || slices.ContainsFunc(m.Layers, isLayer))
	return node{artifact: !isImage}, nil
}

// blobJSON returns the content of desc, which b has, and verifies it.
func (b *Bundle) blobJSON(ctx context.Context, desc descriptor) ([]byte, error) {
	data, err := b.readJSON(ctx, b.blobs[desc.Digest].file)
	if err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, misnamed(desc.Digest, got)
	}
	return data, nil
}

func misnamed(want, got digest.Digest) error {
	return fmt.Errorf("blob %s does not match its name: its content is %s", want, got)
}
