// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/berth-edge/berth/loader/bundle"
)

// CheckedImage is one image of a bundle that was read, and what is wrong with it.
type CheckedImage struct {
	bundle.Image
	// Referrers counts the manifests that the bundle holds beside the image.
	Referrers int
	Err       error
}

// CheckBundle reads all that a bundle holds, and returns its images and what is wrong with each, and with what refers to it: a blob
// that is absent, or whose content is another than its digest says. An error is of the bundle as a whole.
func CheckBundle(ctx context.Context, path string) ([]CheckedImage, error) {
	b, err := openWhole(ctx, path)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	r := readBundle{}
	if err := b.Walk(ctx, r.read); err != nil {
		return nil, err
	}
	about := map[digest.Digest][]bundle.Referrer{}
	for _, referrer := range b.Referrers() {
		about[referrer.Subject] = append(about[referrer.Subject], referrer)
	}
	var checked []CheckedImage
	for _, image := range b.Images() {
		c := CheckedImage{Image: image, Err: r.check(image.Target)}
		if c.Err == nil {
			c.Referrers, c.Err = r.checkReferrers(image.Target, about)
		}
		checked = append(checked, c)
	}
	return checked, nil
}

// readBundle are the blobs that were read of a bundle.
type readBundle map[digest.Digest]readBlob

// readBlob is a blob that was read. Its text is kept if it may be a manifest.
type readBlob struct {
	size int64
	text []byte
	err  error
}

// maxText is the size in bytes above which a blob is not kept to be looked at.
const maxText = 8 << 20

// read compares a blob with its digest. What is wrong with it is noted, and does not end the reading.
func (r readBundle) read(dgst digest.Digest, size int64, from io.Reader) error {
	var text bytes.Buffer
	to, first := io.Discard, make([]byte, 1)
	n, _ := io.ReadFull(from, first)
	if n == 1 && first[0] == '{' && size <= maxText {
		to = &text
	}
	verified := content.NewVerifyReader(io.MultiReader(bytes.NewReader(first[:n]), from), ocispec.Descriptor{Digest: dgst, Size: size})
	_, err := io.Copy(to, verified)
	if err == nil {
		err = verified.Verify()
	}
	r[dgst] = readBlob{size, text.Bytes(), err}
	return nil
}

// check returns what is wrong with what desc leads to. Of an index the images for other platforms may be absent.
func (r readBundle) check(desc ocispec.Descriptor) error {
	blob, ok := r[desc.Digest]
	switch {
	case !ok:
		return fmt.Errorf("blob %s is not in the bundle", desc.Digest)
	case blob.err != nil:
		return fmt.Errorf("blob %s: %w", desc.Digest, blob.err)
	case blob.size != desc.Size:
		return fmt.Errorf("blob %s has %d bytes, and should have %d", desc.Digest, blob.size, desc.Size)
	case images.IsIndexType(desc.MediaType):
		return r.checkIndex(desc)
	case images.IsManifestType(desc.MediaType):
		return r.checkManifest(desc)
	}
	return nil
}

func (r readBundle) checkIndex(desc ocispec.Descriptor) error {
	index, err := parseIndex(desc, r[desc.Digest].text)
	if err != nil {
		return err
	}
	var errs []error
	there := 0
	for _, child := range index.Manifests {
		if _, ok := r[child.Digest]; ok {
			there++
			errs = append(errs, r.check(child))
		}
	}
	if there == 0 {
		return fmt.Errorf("index %s: none of its images is in the bundle", desc.Digest)
	}
	return errors.Join(errs...)
}

func (r readBundle) checkManifest(desc ocispec.Descriptor) error {
	var manifest ocispec.Manifest
	if err := json.Unmarshal(r[desc.Digest].text, &manifest); err != nil {
		return fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	errs := []error{r.check(manifest.Config)}
	for _, layer := range manifest.Layers {
		if _, ok := r[layer.Digest]; !ok && images.IsNonDistributable(layer.MediaType) {
			continue // which is not bundled either: Windows has it from whoever made it
		}
		errs = append(errs, r.check(layer))
	}
	return errors.Join(errs...)
}

// checkReferrers returns how many manifests refer to an image that is good, to a manifest of it or to each other, and what is
// wrong with them. about are those of the bundle, by what they refer to.
func (r readBundle) checkReferrers(image ocispec.Descriptor, about map[digest.Digest][]bundle.Referrer) (n int, err error) {
	subjects := []digest.Digest{image.Digest}
	if images.IsIndexType(image.MediaType) {
		index, err := parseIndex(image, r[image.Digest].text)
		if err != nil {
			return 0, err
		}
		for _, desc := range index.Manifests {
			subjects = append(subjects, desc.Digest)
		}
	}
	var errs []error
	seen := map[digest.Digest]bool{}
	for len(subjects) > 0 {
		subject := subjects[0]
		subjects = subjects[1:]
		if seen[subject] {
			continue
		}
		seen[subject] = true
		for _, referrer := range about[subject] {
			n++
			if err := r.check(referrer.Target); err != nil {
				errs = append(errs, fmt.Errorf("%s, which refers to %s: %w", referrer.Target.Digest, subject, err))
			}
			subjects = append(subjects, referrer.Target.Digest)
		}
	}
	return n, errors.Join(errs...)
}
