// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/loader/storetest"
)

// told is what was published, with the images that there were by then.
type told struct {
	list func(context.Context) []string
	got  []string
	seen [][]string
}

func (t *told) Publish(ctx context.Context, topic string, event events.Event) error {
	switch e := event.(type) {
	case *eventstypes.ImageCreate:
		t.got = append(t.got, topic+" "+e.Name+" "+e.Labels["is"])
	case *eventstypes.ImageUpdate:
		t.got = append(t.got, topic+" "+e.Name+" "+e.Labels["is"])
	}
	t.seen = append(t.seen, t.list(ctx))
	return nil
}

func written(t *testing.T, db *metadata.DB) int {
	t.Helper()
	text, err := writes(db)
	number, wrong := strconv.Atoi(text)
	if err = errors.Join(err, wrong); err != nil {
		t.Fatal(err)
	}
	return number
}

// TestTogether changes several images at once: all of them are written by one transaction before anybody is told of the first, and
// when one cannot be written none is, and nobody is told.
func TestTogether(t *testing.T) {
	told := &told{}
	db, _ := storetest.New(t, metadata.WithEventsPublisher(told))
	store := metadata.NewImageStore(db)
	told.list = func(ctx context.Context) (names []string) {
		all, err := store.List(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, i := range all {
			names = append(names, i.Name)
		}
		return names
	}
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	image := func(name, is string) images.Image {
		target := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Size: 1}
		return images.Image{Name: name, Target: target, Labels: map[string]string{"is": is}}
	}
	create := func(ctx context.Context, store images.Store) error {
		_, err := store.Create(ctx, image("a", "new"))
		_, again := store.Create(ctx, image("b", "new"))
		return errors.Join(err, again)
	}

	refused := errors.New("refused")
	err := together(ctx, db, func(ctx context.Context, store images.Store) error {
		return errors.Join(create(ctx, store), refused)
	})
	if !errors.Is(err, refused) || len(told.list(ctx)) > 0 || len(told.got) > 0 {
		t.Errorf("got %v, images %v, told %v; want nothing written", err, told.list(ctx), told.got)
	}

	before := written(t, db)
	if err := together(ctx, db, create); err != nil {
		t.Fatal(err)
	}
	if after := written(t, db); after != before+1 {
		t.Errorf("got %d transactions, want one", after-before)
	}
	update := func(ctx context.Context, store images.Store) error {
		_, err := store.Update(ctx, image("a", "changed"), "labels.is")
		return err
	}
	if err := together(ctx, db, update); err != nil {
		t.Fatal(err)
	}
	want := []string{"/images/create a new", "/images/create b new", "/images/update a changed"}
	if !slices.Equal(told.got, want) {
		t.Errorf("told %q, want %q", told.got, want)
	}
	for _, names := range told.seen {
		if !slices.Equal(names, []string{"a", "b"}) {
			t.Errorf("told when there were %q, want both", names)
		}
	}
}
