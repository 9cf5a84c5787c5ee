// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// leaseID is the one lease of the loader: a load that was killed is taken up where it was, and leaves nothing behind.
const leaseID = "io.berth.load"

// lease makes the lease under which a round of loading runs, or takes up the one of a round that was killed: what it
// committed is kept. What it had half-written is not, since after a power cut that may be anything.
func (l *Loader) lease(ctx context.Context) (context.Context, error) {
	lease, err := l.Leases.Create(ctx, leases.WithID(leaseID))
	if errdefs.IsAlreadyExists(err) {
		lease = leases.Lease{ID: leaseID}
		err = l.abortIngests(ctx, lease)
	}
	if err != nil {
		return ctx, fmt.Errorf("take lease %s: %w", leaseID, err)
	}
	return leases.WithLease(ctx, lease.ID), nil
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

// endLease gives the lease up: what was loaded is kept by its images, and the rest may go. Layers that are not kept go at
// once: on a small disk their room is wanted, and on a node where little happens garbage collection may not come for long.
func (l *Loader) endLease(ctx context.Context) {
	var opts []leases.DeleteOpt
	if l.DropLayers {
		opts = append(opts, leases.SynchronousDelete)
	}
	err := l.Leases.Delete(context.WithoutCancel(ctx), leases.Lease{ID: leaseID}, opts...)
	if err != nil && !errdefs.IsNotFound(err) {
		log.G(ctx).WithError(err).WithField("lease", leaseID).Warn("delete lease of the loader")
	}
}
