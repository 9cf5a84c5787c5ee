// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// uploads are the blobs that one run put into registries, or found there: what one repository has, another of the same
// registry mounts, and two images that share a layer do not both send it.
type uploads struct {
	mu   sync.Mutex
	has  map[blob]string        // a repository that has it
	busy map[blob]chan struct{} // closed when an upload has ended
	seen map[blob]bool          // planned to be sent
}

// plan reports whether a blob is the first of its digest to be sent.
func (u *uploads) plan(b blob) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.has[b]; ok || u.seen[b] {
		return false
	}
	u.seen[b] = true
	return true
}

// blob is one blob of one registry, by the domain that its credential is for.
type blob struct {
	registry string
	digest   digest.Digest
}

// isBlob reports whether a descriptor is of a layer or a configuration, which leads to nothing, and not of a manifest or an index.
func isBlob(desc ocispec.Descriptor) bool {
	return !images.IsIndexType(desc.MediaType) && !images.IsManifestType(desc.MediaType)
}

// find returns a repository that has a blob, or, after waiting for whoever sends it, "" for the caller to send it and then to
// say so with [uploads.done] or [uploads.failed].
func (u *uploads) find(ctx context.Context, b blob) (repository string, err error) {
	for {
		u.mu.Lock()
		if repository, ok := u.has[b]; ok {
			u.mu.Unlock()
			return repository, nil
		}
		sent, ok := u.busy[b]
		if !ok {
			u.busy[b] = make(chan struct{})
			u.mu.Unlock()
			return "", nil
		}
		u.mu.Unlock()
		select {
		case <-sent:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// done says that a repository has a blob.
func (u *uploads) done(b blob, repository string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.has[b] = repository
	u.end(b)
}

// failed says that a blob was not sent: another may try.
func (u *uploads) failed(b blob) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.end(b)
}

func (u *uploads) end(b blob) {
	if sent, ok := u.busy[b]; ok {
		close(sent)
		delete(u.busy, b)
	}
}
