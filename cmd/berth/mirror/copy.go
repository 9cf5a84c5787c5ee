// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/endpoint"
)

// CopyOptions say what of an image is copied. The zero value is all of its platforms and nothing else.
type CopyOptions struct {
	// From are asked in the place of the registry that the reference names, if there are any. An image is that of the first that has it.
	From []*BundleSource
	// OnePlatform copies the platform only that images are wanted for. The image has another digest then than at its source. An image
	// for another platform is an error, at the destination too.
	OnePlatform bool
	// Referrers takes along signatures and whatever else refers to the image.
	Referrers bool
	// Progress is told of bytes that are to be sent and of those that are, by several goroutines. It may be nil.
	Progress func(Step)
}

// Step is a part of a copy, in bytes.
type Step struct {
	Ref string
	// Planned are those that were found to be missing; Sent those that were sent.
	Planned, Sent int64
}

// Copied is how the copy of one image ended.
type Copied struct {
	// Route is the image's route. Target is the target of it that the image was put into; nil if there is none, since the
	// registry that the reference names is where it is pulled from, and it is the source or is not configured.
	Route  resolver.Route
	Target *resolver.Target
	// Present says that it was there, and Descriptor what is there.
	Present    bool
	Descriptor ocispec.Descriptor
	// Sent is how many bytes were sent, and Mounted how many were not, since the registry had them in another repository.
	Sent, Mounted int64
	// Referrers counts the manifests that were copied beside the image.
	Referrers int
	Err       error
}

// attempts is how often a copy is begun that fails, if that may pass and nothing was copied meanwhile. What was sent is not sent again.
const attempts = 3

// Copy puts images into the first registries of their routes, under the names that the rules give them, if they are missing
// there. done, which may be nil, is called with the index of each image that is done, by several goroutines.
func (m *Mirror) Copy(ctx context.Context, refs []string, opts CopyOptions, done func(i int, c Copied)) []Copied {
	copied := make([]Copied, len(refs))
	transfers := make([]*transfer, len(refs))
	each(refs, func(i int, ref string) { copied[i], transfers[i] = m.begin(ctx, ref, opts) })
	for i, err := range clashes(ctx, transfers) {
		copied[i].Err, transfers[i] = err, nil
	}
	look(ctx, transfers)
	each(refs, func(i int, _ string) {
		if t := transfers[i]; t != nil {
			t.copy(ctx, &copied[i])
		}
		if done != nil {
			done(i, copied[i])
		}
	})
	return copied
}

// clashes finds the transfers that would put another image into the place of one before, by index, and says so. One image that has
// two names at its sources may well have one at the destination.
func clashes(ctx context.Context, transfers []*transfer) map[int]error {
	found := map[int]error{}
	first := map[string]*transfer{} // by target
	for i, t := range transfers {
		if t == nil {
			continue
		}
		before, ok := first[t.target.String()]
		if !ok {
			first[t.target.String()] = t
			continue
		}
		this, err := t.root(ctx)
		if err != nil {
			continue // which the copy says
		}
		if that, err := before.root(ctx); err == nil && this.Digest != that.Digest {
			found[i] = fmt.Errorf("copy %s: %s is where %s is pulled from too, and is another image; change the rules, such as to path = \"full\"",
				t.named, t.target, before.named)
		}
	}
	return found
}

// root is what the reference leads to at the source.
func (t *transfer) root(ctx context.Context) (ocispec.Descriptor, error) {
	return t.src.Resolve(ctx, t.nameAt(tagOrDigest(t.target)))
}

// begin returns what copies an image, nil if nothing is to be copied or it cannot be.
func (m *Mirror) begin(ctx context.Context, ref string, opts CopyOptions) (c Copied, t *transfer) {
	c.Route = m.routes.Route(ctx, ref)
	if c.Err = c.Route.Err; c.Err != nil {
		return c, nil
	}
	if c.Target = destinationOf(c.Route, opts); c.Target == nil {
		return c, nil
	}
	dst, err := m.repository(*c.Target, push)
	if err != nil {
		c.Err = err
		return c, nil
	}
	src, err := m.sourceOf(ctx, c.Route.Named, opts)
	if err != nil {
		c.Err = fmt.Errorf("reach %s: %w", c.Route.Named, err)
		return c, nil
	}
	return c, &transfer{
		m: m, opts: opts, ref: ref, named: c.Route.Named, target: c.Target.Pull,
		src: newOrigin(src), dst: newDestination(dst), domain: cmp.Or(c.Target.Domain(), dst.Reference.Registry),
	}
}

// sourceOf is where an image is copied from.
func (m *Mirror) sourceOf(ctx context.Context, named reference.Named, opts CopyOptions) (oras.ReadOnlyTarget, error) {
	if len(opts.From) > 0 {
		return firstWith(ctx, opts.From, named.String()), nil
	}
	return m.repository(m.routes.Source(named), pull)
}

// destinationOf is the target that an image is put into, nil if there is none: the first that is another than the registry which the
// reference names. What comes from elsewhere is put into that one too, if it is configured.
func destinationOf(route resolver.Route, opts CopyOptions) *resolver.Target {
	i := slices.IndexFunc(route.Targets, func(t resolver.Target) bool { return t.Kind == resolver.KindRegistry })
	if i < 0 && len(opts.From) > 0 {
		i = slices.IndexFunc(route.Targets, func(t resolver.Target) bool { return t.Registry != nil })
	}
	if i < 0 {
		return nil
	}
	return &route.Targets[i]
}

// copy copies the image, several times if need be.
func (t *transfer) copy(ctx context.Context, c *Copied) {
	defer func() { c.Sent, c.Mounted = t.sent.Load(), t.mounted.Load() }()
	for attempt := 1; ; attempt++ {
		before := t.copied.Load()
		if c.Err = t.run(ctx, c); c.Err == nil || !mayPass(c.Err) || ctx.Err() != nil {
			return
		}
		t.dst.forget()
		if t.copied.Load() > before {
			attempt = 1
		} else if attempt == attempts {
			return
		}
		pause(ctx, attempt)
	}
}

// pause waits before what failed is tried again.
func pause(ctx context.Context, attempt int) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(attempt) * 500 * time.Millisecond):
	}
}

// mayPass reports whether a failure may be gone the next time: the registry has too much to do, or the connection was lost.
func mayPass(err error) bool {
	var response *errcode.ErrorResponse
	if errors.As(err, &response) {
		switch response.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests:
			return true
		case http.StatusUnauthorized: // the upload was begun with a token that ended before the blob was sent
			return response.Method == http.MethodPut
		}
		return response.StatusCode >= http.StatusInternalServerError
	}
	switch causeOf(err) {
	case Missing, Unauthorized, WrongPlatform, Certificate, NoCredential:
		return false
	}
	var reached *endpoint.Error
	if errors.As(err, &reached) && (reached.Cause == endpoint.RateLimited || reached.Cause == endpoint.Busy) {
		return false
	}
	for _, lasting := range []error{errChangesDigest, errElsewhere, errStoredOtherwise, errOwnSignature, errdefs.ErrFailedPrecondition, errdefs.ErrInvalidArgument, content.ErrMismatchedDigest} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}

// transfer copies one image.
type transfer struct {
	m             *Mirror
	opts          CopyOptions
	ref           string
	named, target reference.Named // ref, and what it is there
	src           *origin
	dst           *destination
	domain        string // of dst's registry
	sent, mounted atomic.Int64
	copied        atomic.Int64 // blobs and manifests that are there now and were not before
	missed        bool         // the image was not there, and was sent at least in part

	mu   sync.Mutex
	mine map[blob]bool // blobs that this one said it would send
}

var errChangesDigest = errors.New("the reference has the digest of an index, which one platform of it does not have; copy all platforms")

func (t *transfer) run(ctx context.Context, c *Copied) error {
	defer t.giveUp()
	name := tagOrDigest(t.target)
	desc, err := t.dst.Resolve(ctx, name)
	switch {
	case err == nil:
		c.Present, c.Descriptor = !t.missed, desc
		if err := t.checkPresent(ctx, desc); err != nil {
			return fmt.Errorf("%s is there: %w", t.target, plainly(err))
		}
		if err := t.checkSent(ctx, desc); err != nil {
			return fmt.Errorf("copy %s to %s: %w", t.named, t.target, err)
		}
	case causeOf(err) != Missing:
		return fmt.Errorf("look for %s: %w", t.target, plainly(err))
	default:
		t.missed = true
		if c.Descriptor, err = t.image(ctx, name); err != nil {
			return err
		}
		if err := t.checkKept(ctx, name); err != nil {
			return fmt.Errorf("copy %s to %s: %w", t.named, t.target, plainly(err))
		}
	}
	if err := t.tag(ctx, c.Descriptor); err != nil {
		return err
	}
	if !t.opts.Referrers {
		return nil
	}
	var from content.Fetcher = t.src
	if c.Present {
		from = t.dst
	}
	found, err := t.referrers(ctx, from, c.Descriptor)
	if err == nil {
		c.Referrers, err = t.copyReferrers(ctx, found)
	}
	return err
}

// checkPresent returns an error if one platform is wanted, and what is there is for others: an earlier copy took another one.
func (t *transfer) checkPresent(ctx context.Context, desc ocispec.Descriptor) error {
	if !t.opts.OnePlatform {
		return nil
	}
	_, err := t.m.only(ctx, t.dst, desc)
	return err
}

var errStoredOtherwise = errors.New("a registry that changes manifests keeps no digest")

// checkSent returns an error if what is there is not what was sent before: the registry stored something else.
func (t *transfer) checkSent(ctx context.Context, there ocispec.Descriptor) error {
	if !t.missed {
		return nil
	}
	sent, err := t.root(ctx)
	if err == nil && t.opts.OnePlatform {
		sent, err = t.m.only(ctx, t.src, sent)
	}
	if err == nil && sent.Digest != there.Digest {
		err = fmt.Errorf("it was sent %s and has %s in its place: %w", sent.Digest, there.Digest, errStoredOtherwise)
	}
	return err
}

// checkKept returns an error if the registry does not have what it said that it took: who goes by that has no network to send it
// again. One of several machines may have it a moment later.
func (t *transfer) checkKept(ctx context.Context, name string) error {
	for attempt := 1; ; attempt++ {
		t.dst.forget()
		there, err := t.dst.Resolve(ctx, name)
		switch {
		case err == nil:
			return t.checkSent(ctx, there)
		case causeOf(err) != Missing:
			return err
		case attempt == attempts || ctx.Err() != nil:
			return fmt.Errorf("the registry said that it took it, and does not have it: %w", err)
		}
		pause(ctx, attempt)
	}
}

// tell says how far the copy is.
func (t *transfer) tell(step Step) {
	if t.opts.Progress != nil {
		step.Ref = t.ref
		t.opts.Progress(step)
	}
}

// nameAt is how the source is asked for the image.
func (t *transfer) nameAt(name string) string {
	if len(t.opts.From) > 0 {
		return t.named.String()
	}
	return name
}

// image copies what the reference leads to.
func (t *transfer) image(ctx context.Context, name string) (ocispec.Descriptor, error) {
	from := t.nameAt(name)
	opts := oras.CopyOptions{CopyGraphOptions: t.graph()}
	if t.opts.OnePlatform {
		if _, ok := t.named.(reference.Digested); ok {
			root, err := t.src.Resolve(ctx, from)
			if err == nil && images.IsIndexType(root.MediaType) {
				return ocispec.Descriptor{}, fmt.Errorf("%s: %w", t.named, errChangesDigest)
			}
		}
		opts.MapRoot = func(ctx context.Context, src content.ReadOnlyStorage, root ocispec.Descriptor) (ocispec.Descriptor, error) {
			return t.m.only(ctx, src, root)
		}
	}
	desc, err := oras.Copy(ctx, reading{t.src, t}, from, t.dst, name, opts)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("copy %s: %w", t.named, plainly(err))
	}
	return desc, nil
}

// tag gives an image that was copied by its digest the tag that stands beside that.
func (t *transfer) tag(ctx context.Context, desc ocispec.Descriptor) error {
	tagged, ok := t.target.(reference.NamedTagged)
	if _, digested := t.target.(reference.Digested); !ok || !digested {
		return nil
	}
	if there, err := t.dst.Resolve(ctx, tagged.Tag()); err == nil && there.Digest == desc.Digest {
		return nil
	}
	if err := t.dst.Tag(ctx, desc, tagged.Tag()); err != nil {
		return fmt.Errorf("tag %s: %w", t.target, plainly(err))
	}
	return nil
}

// concurrency is how many blobs of one image are copied at once.
const concurrency = 3

func (t *transfer) graph() oras.CopyGraphOptions {
	blobOf := func(desc ocispec.Descriptor) blob { return blob{t.domain, desc.Digest} }
	has := func(_ context.Context, desc ocispec.Descriptor) error {
		t.m.uploads.done(blobOf(desc), t.dst.Reference.Repository)
		return nil
	}
	return oras.CopyGraphOptions{
		Concurrency: concurrency,
		MountFrom: func(ctx context.Context, desc ocispec.Descriptor) ([]string, error) {
			repository, err := t.m.uploads.find(ctx, blobOf(desc))
			if err != nil {
				return nil, err
			}
			if repository == "" {
				t.claim(blobOf(desc))
				return nil, nil
			}
			return []string{repository}, nil
		},
		PostCopy: func(ctx context.Context, desc ocispec.Descriptor) error {
			t.copied.Add(1)
			return has(ctx, desc)
		},
		OnCopySkipped: has,
		OnMounted: func(_ context.Context, desc ocispec.Descriptor) error {
			t.copied.Add(1)
			t.mounted.Add(desc.Size)
			return nil
		},
	}
}

// claim notes a blob that this one sends.
func (t *transfer) claim(b blob) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mine == nil {
		t.mine = map[blob]bool{}
	}
	t.mine[b] = true
}

// giveUp lets others send what this one did not.
func (t *transfer) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for b := range t.mine {
		t.m.uploads.failed(b)
	}
	t.mine = nil
}
