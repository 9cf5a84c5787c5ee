// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	// Digests of these algorithms are valid only where the algorithm is linked in.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// descriptor is what is read of a descriptor: no URLs, no data, and of the annotations only those that name an image.
type descriptor struct {
	MediaType   string        `json:"mediaType"`
	Digest      digest.Digest `json:"digest"`
	Size        int64         `json:"size"`
	Platform    *platform     `json:"platform"`
	Annotations annotations   `json:"annotations"`
}

type platform struct {
	Architecture string   `json:"architecture"`
	OS           string   `json:"os"`
	OSVersion    string   `json:"os.version"`
	OSFeatures   features `json:"os.features"`
	Variant      string   `json:"variant"`
}

type annotations struct {
	ImageName string        `json:"io.containerd.image.name"`
	RefName   string        `json:"org.opencontainers.image.ref.name"`
	Subject   digest.Digest `json:"io.containerd.manifest.subject"`
	Referrer  string        `json:"io.berth.referrer"`
}

// check reports a descriptor that no blob can have.
func (d descriptor) check() error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("invalid digest %.128q: %w", d.Digest.String(), err)
	}
	if d.Size < 0 {
		return fmt.Errorf("%s has the negative size %d", d.Digest, d.Size)
	}
	return nil
}

// fits reports a blob of another size than d says.
func (d descriptor) fits(size int64) error {
	if d.Size != size {
		return fmt.Errorf("%s has %d bytes in the bundle, want %d as its descriptor says", d.Digest, size, d.Size)
	}
	return nil
}

// target is what an image of d is stored with.
func (d descriptor) target() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform.spec()}
}

func (p *platform) spec() *ocispec.Platform {
	if p == nil {
		return nil
	}
	return &ocispec.Platform{
		Architecture: p.Architecture, OS: p.OS, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures, Variant: p.Variant,
	}
}

// attestation reports the manifests about an image that an index lists beside it.
func (d descriptor) attestation() bool {
	return d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// name returns the name under which `ctr image import` stores an image, as it is written there. A tag alone is none,
// and neither is text without any of "/:@": ctr would put the day of the import before it. Nor is an id, under which CRI records each
// image beside its names: `ctr image export` of all that a node has writes it like a name.
func (a annotations) name() (string, error) {
	name := a.ImageName
	if name == "" {
		name = a.RefName
	}
	if _, err := digest.Parse(name); err == nil || !strings.ContainsAny(name, "/:@") {
		return "", nil
	}
	if _, err := reference.ParseNormalizedNamed(name); err != nil {
		return "", fmt.Errorf("image name %.300q: %w", name, err)
	}
	return name, nil
}

// isSchema1 reports manifests of Docker's first schema, which containerd no longer reads.
func isSchema1(mediaType string) bool {
	return strings.HasPrefix(mediaType, strings.TrimSuffix(images.MediaTypeDockerSchema1Manifest, "prettyjws"))
}
