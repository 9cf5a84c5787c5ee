// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/image"
)

// bundle writes an OCI archive into the folder, by a rename as one should, and returns its path.
func (l loading) bundle(t testing.TB, name string, images ...image.Named) string {
	t.Helper()
	return l.put(t, name, image.Tar(image.OCI(images)))
}

func (l loading) put(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(l.folder, name)
	image.WriteFile(t, path+".partial", data)
	if err := os.Rename(path+".partial", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// blob is the file of a blob in the content store.
func (l loading) blob(d digest.Digest) string {
	return filepath.Join(l.Root, "io.containerd.content.v1.content/blobs/sha256", d.Encoded())
}

// blobs tells, for every blob that is on disk, the file that it is: another inode or time means that it was written.
func (l loading) blobs(t testing.TB) map[digest.Digest]string {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(l.Root, "io.containerd.content.v1.content/blobs/sha256"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[digest.Digest]string{}
	for _, f := range files {
		info, err := f.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // containerd collected it just now
		}
		if err != nil {
			t.Fatal(err)
		}
		found[digest.NewDigestFromEncoded(digest.SHA256, f.Name())] =
			fmt.Sprint(info.Sys().(*syscall.Stat_t).Ino, info.ModTime().UnixNano(), info.Size())
	}
	return found
}

// wantBlobs fails t unless the blobs on disk are those of before, and those that were to be written, whole.
func (l loading) wantBlobs(t testing.TB, before map[digest.Digest]string, written ...digest.Digest) {
	t.Helper()
	after := l.blobs(t)
	for d, file := range before {
		if slices.Contains(written, d) {
			if after[d] == file {
				t.Errorf("blob %s was not written", d)
			}
		} else if after[d] != file {
			t.Errorf("blob %s: got file %q, want that of before, %q", d, after[d], file)
		}
	}
	for d := range after {
		if _, ok := before[d]; !ok && !slices.Contains(written, d) {
			t.Errorf("blob %s was written", d)
		}
		if data, err := os.ReadFile(l.blob(d)); err != nil || digest.FromBytes(data) != d {
			t.Errorf("blob %s: got another content, %d bytes, %v", d, len(data), err)
		}
	}
}

// chainID names the snapshot of the first n layers of an image.
func chainID(img *image.Image, n int) string {
	var diffIDs []digest.Digest
	for _, layer := range img.Layers[:n] {
		diffIDs = append(diffIDs, layer.DiffID)
	}
	return identity.ChainID(diffIDs).String()
}

// wantLoaded fails t unless CRI has the image under each name, whole, listed once, and pinned.
func (l loading) wantLoaded(t testing.TB, n image.Named) {
	t.Helper()
	for _, name := range n.Names {
		within(t, 10*time.Second, fmt.Sprintf("image %s of CRI, which hears of it by an event, with id %s and pinned", name, n.ConfigDigest), func() bool {
			got := l.criStatus(t, name)
			return got != nil && got.Pinned && got.Id == n.ConfigDigest.String()
		})
		if err := n.Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// criStatus is what CRI says of an image, nil if it has none. CRI learns of changes by events, a little later.
func (l loading) criStatus(t testing.TB, ref string) *cri.Image {
	t.Helper()
	images, _ := l.CRI(t)
	var got *cri.ImageStatusResponse
	var err error
	within(t, 10*time.Second, "CRI that is up", func() bool {
		got, err = images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		return status.Code(err) != codes.Unavailable
	})
	if err != nil {
		t.Fatal(err)
	}
	return got.Image
}

// waitPinned waits until CRI says of an image that it is pinned, or that it is not.
func (l loading) waitPinned(t testing.TB, ref string, want bool) {
	t.Helper()
	within(t, 10*time.Second, fmt.Sprintf("%s with pinned %t", ref, want), func() bool {
		got := l.criStatus(t, ref)
		return got != nil && got.Pinned == want
	})
}

// criList is the one image of an id in CRI's list.
func (l loading) criList(t testing.TB, id digest.Digest) *cri.Image {
	t.Helper()
	images, _ := l.CRI(t)
	list, err := images.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var found []*cri.Image
	for _, i := range list.Images {
		if i.Id == id.String() {
			found = append(found, i)
		}
	}
	if len(found) != 1 {
		t.Fatalf("got image %s %d times in CRI's list, want it once:\n%v", id, len(found), list.Images)
	}
	return found[0]
}

// get returns a record of an image in the namespace of CRI.
func (l loading) get(t testing.TB, name string) (images.Image, error) {
	t.Helper()
	return l.Client().ImageService().Get(namespaces.WithNamespace(t.Context(), "k8s.io"), name)
}

// stateOf is the state that `berth status` gives a bundle, or an image by its digest.
func stateOf(status, what string) string {
	for line := range strings.Lines(status) {
		if before, state, ok := strings.Cut(line, what+": "); ok && !strings.Contains(before, "note") {
			state, _, _ = strings.Cut(strings.TrimSpace(state), ",")
			return state
		}
	}
	return ""
}

// configureLoader stops the node and gives its loader's stanza other further lines.
func (l loading) configureLoader(t testing.TB, lines ...string) {
	t.Helper()
	l.Stop(t)
	l.stanza(lines...)
}

// collect has containerd collect garbage.
func (l loading) collect(t testing.TB) {
	t.Helper()
	id := strings.TrimSpace(l.Ctr(t, "-n", "k8s.io", "leases", "create", "--id", "collect"))
	l.Ctr(t, "-n", "k8s.io", "leases", "delete", "--sync", id)
}

// waitVerified waits until what was on the disk at a first start, or after an unclean end, is verified: one verification waits
// for another.
func (l loading) waitVerified(t testing.TB) {
	t.Helper()
	if out, errs, code := berth(t, "status", "--verify", "--address", l.Address); code != 0 {
		t.Fatalf("got status %d\n%s%s", code, out, errs)
	}
}

// collectAllTheTime has containerd collect a blob, and all else that is garbage in the content store, again and again, until the
// returned function is called.
func (l loading) collectAllTheTime(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(namespaces.WithNamespace(t.Context(), "k8s.io"))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		manager := l.Client().LeasesService()
		for i := 0; ctx.Err() == nil; i++ {
			lease, err := manager.Create(ctx, leases.WithRandomID())
			if err == nil {
				text := fmt.Appendf(nil, "garbage %d", i)
				desc := ocispec.Descriptor{Digest: digest.FromBytes(text), Size: int64(len(text))}
				err = content.WriteBlob(leases.WithLease(ctx, lease.ID), l.Client().ContentStore(), "garbage", bytes.NewReader(text), desc)
			}
			if err == nil {
				err = manager.Delete(ctx, lease, leases.SynchronousDelete)
			}
			if err != nil && ctx.Err() == nil {
				t.Errorf("collect garbage: %v", err)
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}
