// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetchAll writes the blobs that images of a compressed bundle lack, in one go through it. A pull would read the bundle from
// its start for each. It returns the images that something was written of, and why that failed.
func (l *Loader) fetchAll(ctx context.Context, e *entry, images []*Image) (lacking map[*Image]error) {
	var all lacks
	wanted := map[digest.Digest]ocispec.Descriptor{}
	lacking = map[*Image]error{}
	for _, image := range images {
		k, err := l.check(ctx, image)
		if err != nil {
			lacking[image] = err
			continue
		}
		for _, desc := range k.missing { // what is damaged is repaired by itself
			if _, ok := wanted[desc.Digest]; !ok {
				wanted[desc.Digest] = desc
				all.missing = append(all.missing, desc)
			}
		}
		if len(k.missing) == 0 {
			continue
		}
		lacking[image] = nil
		for _, desc := range k.toUnpack {
			if !slices.ContainsFunc(all.toUnpack, func(p ocispec.Descriptor) bool { return p.Digest == desc.Digest }) {
				all.toUnpack = append(all.toUnpack, desc)
			}
		}
	}
	if len(wanted) > 0 {
		if err := l.fetchWanted(ctx, e, all, wanted); err != nil {
			for image := range lacking {
				lacking[image] = err
			}
		}
	}
	return lacking
}

func (l *Loader) fetchWanted(ctx context.Context, e *entry, k lacks, wanted map[digest.Digest]ocispec.Descriptor) error {
	if err := l.enoughSpace(k, nil); err != nil {
		return err
	}
	ctx, err := l.lease(ctx)
	if err != nil {
		return err
	}
	if err := l.work.Acquire(ctx, 1); err != nil {
		return err
	}
	defer l.work.Release(1)
	err = e.bundle.Walk(ctx, func(d digest.Digest, _ int64, r io.Reader) error {
		desc, ok := wanted[d]
		if !ok {
			return nil
		}
		delete(wanted, d)
		err := l.writeBlob(ctx, desc, r)
		if errdefs.IsFailedPrecondition(err) {
			return nil // it is not what its name says: the images that want it fail by themselves, and no others
		}
		if err == nil {
			bytesRead.Add(float64(desc.Size))
			bytesWritten.Add(float64(desc.Size))
		}
		return err
	})
	return l.withNeed(k, err)
}
