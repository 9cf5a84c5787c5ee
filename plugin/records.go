// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// together runs do with the images of a database, as one transaction: what it changes is on disk as a whole, or not at all. Nothing else
// can be written to the database meanwhile, so that do uses only the store and the context that it is given. containerd sends no
// events from within a transaction, and those who wait for them are told when it has ended.
func together(ctx context.Context, db *metadata.DB, do func(context.Context, images.Store) error) error {
	changed := &changes{Store: metadata.NewImageStore(db)}
	err := db.Update(func(tx *bolt.Tx) error { return do(boltutil.WithTransaction(ctx, tx), changed) })
	publisher := db.Publisher(ctx)
	if err != nil || publisher == nil {
		return err
	}
	var errs []error
	for _, event := range changed.events {
		errs = append(errs, publisher.Publish(ctx, event.topic, event.what))
	}
	return errors.Join(errs...)
}

// changes are those of a store of images, with the events that the store does not send.
type changes struct {
	images.Store
	events []event
}

type event struct {
	topic string
	what  any
}

func (c *changes) Create(ctx context.Context, image images.Image) (images.Image, error) {
	created, err := c.Store.Create(ctx, image)
	if err == nil {
		c.events = append(c.events, event{"/images/create", &eventstypes.ImageCreate{Name: created.Name, Labels: created.Labels}})
	}
	return created, err
}

func (c *changes) Update(ctx context.Context, image images.Image, fieldpaths ...string) (images.Image, error) {
	updated, err := c.Store.Update(ctx, image, fieldpaths...)
	if err == nil {
		c.events = append(c.events, event{"/images/update", &eventstypes.ImageUpdate{Name: updated.Name, Labels: updated.Labels}})
	}
	return updated, err
}

// Delete is for no transaction: it may wait for garbage collection.
func (c *changes) Delete(context.Context, string, ...images.DeleteOpt) error {
	return errdefs.ErrNotImplemented
}
