// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/local"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/containerd/v2/pkg/imageverifier"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	localcontent "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// node is containerd's own transfer service on stores of its own, along routes.
type node struct {
	*resolver.Transferrer
	db     *metadata.DB
	images images.Store

	unverified transfer.Transferrer
}

func newNode(t testing.TB, config string, verifiers ...imageverifier.ImageVerifier) *node {
	t.Helper()
	root := t.TempDir()
	blobs, err := localcontent.NewStore(root)
	if err != nil {
		t.Fatal(err)
	}
	file, err := bolt.Open(filepath.Join(root, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	layers, err := native.NewSnapshotter(filepath.Join(root, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { layers.Close() })
	db := metadata.NewDB(file, blobs, map[string]snapshots.Snapshotter{"native": layers})
	if err := db.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	service := local.TransferConfig{
		Leases: metadata.NewLeaseManager(db), Verifiers: map[string]imageverifier.ImageVerifier{},
		UnpackPlatforms: []unpack.Platform{{Platform: platforms.All, SnapshotterKey: "native", Snapshotter: db.Snapshotter("native"), Applier: noted{}}},
	}
	for i, v := range verifiers {
		service.Verifiers[fmt.Sprint("verifier", i)] = v
	}
	routes := routesOf(t, config)
	store := metadata.NewImageStore(db)
	unverified := service
	unverified.Verifiers = nil
	return &node{db: db, images: store, unverified: local.NewTransferService(db.ContentStore(), store, unverified), Transferrer: &resolver.Transferrer{
		Inner:     local.NewTransferService(db.ContentStore(), store, service),
		Routes:    func(context.Context) (*resolver.Routes, error) { return routes, nil },
		Leases:    service.Leases,
		Content:   db.ContentStore(),
		Downloads: &resolver.Downloads{},
	}}
}

// noted is an applier that unpacks nothing: layers of these images are no archives.
type noted struct{}

func (noted) Apply(_ context.Context, desc ocispec.Descriptor, _ []mount.Mount, _ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	return desc, nil
}

// pull pulls ref as a client does.
func (n *node) pull(ctx context.Context, ref string, opts ...registry.Opt) error {
	ctx = namespaces.WithNamespace(ctx, "test")
	src, err := registry.NewOCIRegistry(ctx, ref, opts...)
	if err != nil {
		return err
	}
	return n.Transfer(ctx, src, image.NewStore(ref))
}

// wantImage checks that ref is want, byte for byte.
func (n *node) wantImage(t testing.TB, ref string, want registrytest.Image) images.Image {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), "test")
	got, err := n.images.Get(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	if got.Target.Digest != want.Digest() {
		t.Errorf("%s: got %s, want %s", ref, got.Target.Digest, want.Digest())
	}
	for _, b := range [][]byte{want.Manifest, want.Config, want.Layer} {
		stored, err := content.ReadBlob(ctx, n.Content, ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))})
		if err != nil {
			t.Error(err)
		} else if !slices.Equal(stored, b) {
			t.Errorf("%s: a blob of %d bytes is not what it should be", ref, len(b))
		}
	}
	return got
}

// wantNothing checks that no image is stored under any name, and that no content stays.
func (n *node) wantNothing(t testing.TB) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), "test")
	if all, err := n.images.List(ctx); err != nil || len(all) > 0 {
		t.Errorf("got images %v (%v), want none", all, err)
	}
	n.wantNoLeftovers(t)
	err := n.Content.Walk(ctx, func(info content.Info) error {
		t.Errorf("got blob %s of %d bytes, want none", info.Digest, info.Size)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// wantNoLeftovers checks that no lease stays, and after garbage collection no ingest.
func (n *node) wantNoLeftovers(t testing.TB) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), "test")
	left, err := n.Leases.List(ctx)
	if err != nil || len(left) > 0 {
		t.Errorf("got leases %v (%v), want none", left, err)
	}
	if _, err := n.db.GarbageCollect(ctx); err != nil {
		t.Error(err)
	}
	ingests, err := n.Content.ListStatuses(ctx)
	if err != nil || len(ingests) > 0 {
		t.Errorf("got ingests %v (%v), want none", ingests, err)
	}
}

// target is a server that a rule leads to, and what configures it.
type target struct {
	*registrytest.Server
	ca string
}

func serve(t testing.TB, h http.Handler) target {
	t.Helper()
	authority := registrytest.NewAuthority(t)
	config := authority.Server(t)
	config.NextProtos = []string{"http/1.1"} // for handlers that take a connection over
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, []byte(authority.PEM), 0o600); err != nil {
		t.Fatal(err)
	}
	return target{registrytest.Serve(t, config, h), path}
}

// registry returns the target's table, with more of its keys.
func (s target) registry(keys ...string) string {
	return fmt.Sprintf("[[registries]]\ndomain = %q\ncertificates = [%q]\n%s\n", s.Host, s.ca, strings.Join(keys, "\n"))
}

const withPassword = `username = "canary-user"
password = "canary/pass+word"`

// from returns a rule for quay.io to targets, each below the path "mirror".
func from(targets ...target) string {
	var to []string
	for _, s := range targets {
		to = append(to, fmt.Sprintf("%q", s.Host+"/mirror"))
	}
	return "[[rules]]\nfrom = \"quay.io\"\nto = [" + strings.Join(to, ", ") + "]\n"
}

const ref = "quay.io/org/app:1"

// canaries are what authenticates in these tests, as it is and as it travels.
var canaries = []string{
	"canary-user", "canary/pass+word", "Y2FuYXJ5LXVzZXI6Y2FuYXJ5L3Bhc3Mrd29yZA", "canary%2Fpass%2Bword", "canary-token",
	"pod-user", "pod-pass", "cG9kLXVzZXI6cG9kLXBhc3M", "canary-signature",
}

func wantNoSecret(t testing.TB, what, text string) {
	t.Helper()
	for _, canary := range canaries {
		if i := strings.Index(text, canary); i >= 0 {
			t.Errorf("%s has %q in it: …%s…", what, canary, text[max(0, i-200):min(len(text), i+60)])
		}
	}
}

// wantError checks the texts and the kind of an error, and what no error of a pull may be.
func wantError(t testing.TB, err, kind error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want one with %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("got error %q, want one with %q", err, text)
		}
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Errorf("got error %q, want kind %v", err, kind)
	}
	if errdefs.IsNotImplemented(err) {
		t.Errorf("error %q is ErrNotImplemented: containerd would ask another plugin", err)
	}
	wantNoSecret(t, "the error", fmt.Sprintf("%v %+v %#v", err, err, err))
}

// at is h for paths that contain part, and next for others.
func at(part string, h http.HandlerFunc, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, part) {
			h(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		registrytest.Fail(w, code, "CODE", fmt.Sprintf("message of %d", code))
	}
}
