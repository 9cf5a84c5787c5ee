// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"github.com/berth-edge/berth/loader/bundle"
)

// referrer is a manifest that refers to an image, such as a signature.
type referrer struct {
	desc    ocispec.Descriptor
	subject digest.Digest
	tag     string // that cosign made of the subject; "" if the manifest names that itself
}

// descriptor is how a bundle of images that have the name holds it: as no image, neither for Berth's loader nor for containerd's
// importer, which passes over what is for a platform that is not its own.
func (r referrer) descriptor(name string) ocispec.Descriptor {
	annotations := map[string]string{images.AnnotationManifestSubject: r.subject.String()}
	if r.tag != "" {
		annotations[bundle.ReferrerName] = name + ":" + r.tag
	}
	return ocispec.Descriptor{
		MediaType: r.desc.MediaType, Digest: r.desc.Digest, Size: r.desc.Size,
		Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"}, Annotations: annotations,
	}
}

// referrers finds what refers to an image, which is read from, and to the manifests of its index: by the field subject (OCI
// distribution specification 1.1, whose fall-back by tags is included), and by the tags that cosign gives signatures.
func (t *transfer) referrers(ctx context.Context, from content.Fetcher, root ocispec.Descriptor) ([]referrer, error) {
	manifests := []ocispec.Descriptor{root}
	if images.IsIndexType(root.MediaType) {
		below, err := t.successors()(ctx, from, root)
		if err != nil {
			return nil, err
		}
		manifests = append(manifests, below...)
	}
	seen := map[digest.Digest]bool{}
	var found []referrer
	for _, desc := range manifests {
		bySubject, err := t.bySubject(ctx, desc, seen)
		if err != nil {
			return nil, fmt.Errorf("look for what refers to %s: %w", desc.Digest, plainly(err))
		}
		byTag, err := t.byTag(ctx, desc)
		if err != nil {
			return nil, err
		}
		found = append(append(found, bySubject...), byTag...)
	}
	return found, nil
}

// bySubject finds the referrers of a manifest, and theirs, unless it was seen.
func (t *transfer) bySubject(ctx context.Context, desc ocispec.Descriptor, seen map[digest.Digest]bool) ([]referrer, error) {
	src, ok := t.src.ReadOnlyTarget.(oras.ReadOnlyGraphTarget)
	if !ok || seen[desc.Digest] {
		return nil, nil
	}
	seen[desc.Digest] = true
	var found []referrer
	descs, err := src.Predecessors(ctx, desc)
	for _, d := range descs {
		theirs, err := t.bySubject(ctx, d, seen)
		if err != nil {
			return nil, err
		}
		found = append(append(found, referrer{desc: d, subject: desc.Digest}), theirs...)
	}
	return found, err
}

// cosignTags are the endings of the tags that cosign makes of a digest.
var cosignTags = []string{"sig", "att", "sbom"}

func (t *transfer) byTag(ctx context.Context, desc ocispec.Descriptor) ([]referrer, error) {
	var found []referrer
	for _, ending := range cosignTags {
		tag := fmt.Sprintf("%s-%s.%s", desc.Digest.Algorithm(), desc.Digest.Encoded(), ending)
		tagged, err := t.src.Resolve(ctx, t.tagAt(tag))
		switch {
		case err == nil:
			found = append(found, referrer{desc: tagged, subject: desc.Digest, tag: tag})
		case causeOf(err) != Missing:
			return nil, fmt.Errorf("look for %s: %w", tag, plainly(err))
		}
	}
	return found, nil
}

// tagAt is how the source is asked for another tag in the repository of the image.
func (t *transfer) tagAt(tag string) string {
	if len(t.opts.From) > 0 {
		return t.named.Name() + ":" + tag
	}
	return tag
}

// copyReferrers copies what refers to an image, and returns how much of it is there then.
func (t *transfer) copyReferrers(ctx context.Context, found []referrer) (int, error) {
	for n, r := range found {
		var err error
		if r.tag == "" {
			err = t.copyReferrer(ctx, r)
		} else {
			err = t.copyTagged(ctx, r)
		}
		if err != nil {
			return n, fmt.Errorf("copy %s, which refers to %s: %w", r.desc.Digest, r.subject, plainly(err))
		}
	}
	return len(found), nil
}

var errOwnSignature = errors.New("what is there has signatures that its source does not have; remove it to have it replaced")

// copyTagged copies what is found by its tag. Cosign adds a signature to those that the tag has, as layers of one manifest: what is there
// may have one of whoever fills the registry, and is replaced only by what has all of it.
func (t *transfer) copyTagged(ctx context.Context, r referrer) error {
	there, err := t.dst.Resolve(ctx, r.tag)
	switch {
	case err == nil && there.Digest == r.desc.Digest:
		return nil
	case err == nil:
		if err := t.checkReplaced(ctx, there, r.desc); err != nil {
			return fmt.Errorf("%s:%s: %w", t.target.Name(), r.tag, err)
		}
	case causeOf(err) != Missing:
		return err
	}
	_, err = oras.Copy(ctx, reading{t.src, t}, t.tagAt(r.tag), t.dst, r.tag, oras.CopyOptions{CopyGraphOptions: t.graph()})
	return err
}

// checkReplaced returns an error if a manifest of the source lacks a layer of one that is there.
func (t *transfer) checkReplaced(ctx context.Context, there, source ocispec.Descriptor) error {
	old, err := content.Successors(ctx, t.dst, there)
	if err != nil {
		return err
	}
	kept, err := content.Successors(ctx, t.src, source)
	if err != nil {
		return err
	}
	for _, layer := range old[min(1, len(old)):] { // behind the configuration
		if !slices.ContainsFunc(kept, func(desc ocispec.Descriptor) bool { return desc.Digest == layer.Digest }) {
			return errOwnSignature
		}
	}
	return nil
}

// listed says of a registry that has no list of referrers that it has none, in the one way that oras knows: GitHub's leads to a page for
// people, Artifactory finds the request not acceptable, and for Quay nothing is there that is not asked for well.
type listed struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (l listed) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(req)
	if err != nil || !asksFor(req, "referrers") {
		return resp, err
	}
	switch resp.StatusCode {
	case http.StatusSeeOther, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		drain(resp)
		resp.StatusCode, resp.Body = http.StatusNotFound, http.NoBody
	}
	return resp, nil
}

// copyReferrer copies what names its subject. A registry that does not find it by that has a list of referrers under a tag, which is
// written after the manifest. If a copy ended between the two, the manifest is sent again, and listed.
func (t *transfer) copyReferrer(ctx context.Context, r referrer) error {
	var dst oras.Target = t.dst
	there, err := t.dst.Exists(ctx, r.desc)
	if err != nil {
		return err
	}
	if there {
		listed, err := t.dst.Predecessors(ctx, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: r.subject})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(listed, func(desc ocispec.Descriptor) bool { return desc.Digest == r.desc.Digest }) {
			dst = unlisted{t.dst, r.desc.Digest}
		}
	}
	return oras.CopyGraph(ctx, reading{t.src, t}, dst, r.desc, t.graph())
}

// unlisted is a destination that is to be sent a manifest which it has.
type unlisted struct {
	*destination
	manifest digest.Digest
}

// Exists implements [content.ReadOnlyStorage].
func (u unlisted) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if desc.Digest == u.manifest {
		return false, nil
	}
	return u.destination.Exists(ctx, desc)
}
