// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"

	"golang.org/x/sync/semaphore"
)

type unpacksKey struct{}

// limitUnpacks returns a context in which at most n layers are unpacked at once; 0 is no limit.
func limitUnpacks(ctx context.Context, n int) context.Context {
	if n <= 0 {
		return ctx
	}
	return context.WithValue(ctx, unpacksKey{}, semaphore.NewWeighted(int64(n)))
}

// AcquireUnpack waits until a layer of the pull of ctx may be unpacked, which then is to be released. It is called when the
// layer is there. Containerd's own limit is one for all pulls, and is held while a layer is downloaded: a few slow downloads
// hold up every other pull.
func AcquireUnpack(ctx context.Context) (release func(), err error) {
	limit, ok := ctx.Value(unpacksKey{}).(*semaphore.Weighted)
	if !ok {
		return func() {}, nil
	}
	if err := limit.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { limit.Release(1) }, nil
}
