// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// leaseID is the one lease of the loader: a load that was killed is taken up where it was, and leaves nothing behind.
const leaseID = "io.berth.load"

// resume takes up the lease of a round that was killed, so that it ends with this one. Where that fails, so does whatever is
// to be written, and says why.
func (l *Loader) resume(ctx context.Context) {
	left, err := l.Leases.List(ctx, "id=="+leaseID)
	if err == nil && len(left) > 0 {
		_, err = l.lease(ctx)
	}
	if err != nil {
		log.G(ctx).WithError(err).WithField("lease", leaseID).Warn("take up the lease of a load that was killed")
	}
}

// lease returns ctx under the loader's lease, which everything that is written to the stores needs. A round makes it when it
// first writes, and a start at which there is nothing to load writes nothing. What a round that was killed committed is kept;
// what it had half-written is not, since after a power cut that may be anything.
func (l *Loader) lease(ctx context.Context) (context.Context, error) {
	l.leasing.Lock()
	defer l.leasing.Unlock()
	if !l.leased {
		_, err := l.Leases.Create(ctx, leases.WithID(leaseID))
		if errdefs.IsAlreadyExists(err) {
			err = l.abortIngests(ctx, leases.Lease{ID: leaseID})
		}
		if err != nil {
			return ctx, fmt.Errorf("take lease %s: %w", leaseID, err)
		}
		l.leased = true
		addProcessors()
	}
	return leases.WithLease(ctx, leaseID), nil
}

func (l *Loader) abortIngests(ctx context.Context, lease leases.Lease) error {
	used, err := l.Leases.ListResources(ctx, lease)
	if err != nil {
		return err
	}
	for _, r := range used {
		if r.Type != "ingests" {
			continue
		}
		if err := l.Content.Abort(ctx, r.ID); err != nil && !errdefs.IsNotFound(err) {
			log.G(ctx).WithError(err).WithField("ingest", r.ID).Warn("abort what a killed load had half-written")
		}
	}
	return nil
}

// endLease gives the lease up, if there is one: what was loaded is kept by its images, and the rest may go. It goes at once if asked for,
// since containerd collects garbage only after so many changes, and a disk may be full.
func (l *Loader) endLease(ctx context.Context, collect bool) {
	l.leasing.Lock()
	defer l.leasing.Unlock()
	if !l.leased {
		return
	}
	l.leased = false
	removeProcessors()
	var opts []leases.DeleteOpt
	if collect || l.DropLayers {
		opts = append(opts, leases.SynchronousDelete)
	}
	err := l.Leases.Delete(context.WithoutCancel(ctx), leases.Lease{ID: leaseID}, opts...)
	if err != nil && !errdefs.IsNotFound(err) {
		log.G(ctx).WithError(err).WithField("lease", leaseID).Warn("delete lease of the loader")
	}
}

// endFormerLeases gives up what a load that was killed left in another namespace, which the stanza named then.
func (l *Loader) endFormerLeases(ctx context.Context) error {
	spaces, err := l.spaces(ctx)
	if err != nil {
		return err
	}
	for _, namespace := range spaces[1:] {
		ctx := namespaces.WithNamespace(ctx, namespace)
		left, err := l.Leases.List(ctx, "id=="+leaseID)
		if err == nil && len(left) > 0 {
			err = l.Leases.Delete(ctx, left[0])
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete lease %s of namespace %s: %w", leaseID, namespace, err)
		}
	}
	return nil
}

// checkHeld is [Loader.check], and what it finds there stays until the lease ends: an image that is not recorded is garbage, and
// containerd collects that just after its start. An image that was recorded when its content was gone would not be whole.
// It reports whether the image is recorded.
func (l *Loader) checkHeld(ctx context.Context, image *Image) (k lacks, recorded bool, err error) {
	if k, err = l.check(ctx, image); err != nil {
		return k, false, err
	}
	if recorded, err = l.isRecorded(ctx, image); err != nil || recorded {
		return k, recorded, err
	}
	if err := l.hold(ctx, image, k); err != nil {
		return k, false, err
	}
	k, err = l.check(ctx, image) // it may have gone before it was held
	return k, false, err
}

// hold adds what is there of an image to the lease.
func (l *Loader) hold(ctx context.Context, image *Image, k lacks) error {
	if _, err := l.lease(ctx); err != nil {
		return err
	}
	lease := leases.Lease{ID: leaseID}
	has, err := l.Leases.ListResources(ctx, lease)
	if err != nil {
		return fmt.Errorf("list what lease %s holds: %w", leaseID, err)
	}
	var there []leases.Resource
	for _, desc := range image.contents.all() {
		if !slices.ContainsFunc(k.missing, func(m ocispec.Descriptor) bool { return m.Digest == desc.Digest }) {
			there = append(there, leases.Resource{ID: desc.Digest.String(), Type: "content"})
		}
	}
	for i := len(image.contents.diffIDs); i > 0; i-- {
		id := identity.ChainID(slices.Clone(image.contents.diffIDs[:i])).String()
		if _, err := l.Snapshots.Stat(ctx, id); err == nil {
			there = append(there, leases.Resource{ID: id, Type: "snapshots/" + l.Snapshotter})
			break // which keeps those below
		}
	}
	for _, r := range there {
		if slices.Contains(has, r) {
			continue
		}
		if err := l.Leases.AddResource(ctx, lease, r); err != nil {
			return fmt.Errorf("hold %s %s: %w", r.Type, r.ID, err)
		}
	}
	return nil
}
