// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/loader"
)

// storing is a transfer service that stores an image of which it pulled nothing.
type storing struct{}

func (storing) Transfer(ctx context.Context, _, to any, _ ...transfer.Opt) error {
	_, err := to.(transfer.ImageStorer).Store(ctx, ocispec.Descriptor{}, nil)
	return errors.Join(err, errors.New("nothing was pulled"))
}

// created is a store of images that has none.
type created struct {
	images.Store
	names []string
}

func (c *created) Create(_ context.Context, image images.Image) (images.Image, error) {
	c.names = append(c.names, image.Name)
	return image, nil
}

// TestRecordTogether records an image that is loaded under all its names at once, so that it is never known by some of them alone.
func TestRecordTogether(t *testing.T) {
	l, _ := newLoader(t, bundles(t, "a"), nil)
	l.Transfer, l.Aliases = storing{}, map[string]string{"quay.io/alias:1": "quay.io/a:1"}
	l = loader.New(l.Options, l.Node)
	var together []string
	l.Together = func(ctx context.Context, do func(context.Context, images.Store) error) error {
		c := &created{Store: l.Images}
		err := do(ctx, c)
		together = append(together, c.names...)
		return errors.Join(err, context.Canceled) // and no more tries
	}
	_ = l.Load(t.Context())
	image := l.Catalog().Status()[0].Images[0]
	digest := "@" + image.Digest.String()
	for _, name := range []string{"quay.io/a:1", "quay.io/alias:1", "quay.io/a" + digest, "quay.io/alias" + digest} {
		if !slices.Contains(together, name) {
			t.Errorf("recorded together: %q, want %s, too", together, name)
		}
	}
	if all, err := l.Images.List(namespaces.WithNamespace(t.Context(), "k8s.io")); err != nil || len(all) > 0 {
		t.Errorf("recorded alone: %v %v", all, err)
	}
}
