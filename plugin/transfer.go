// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-edge/berth/resolver"
)

// routeTransfers makes containerd's transfer service pull along routes.
func routeTransfers(ic *plugin.InitContext, inner initFn) (any, error) {
	instance, err := inner(ic)
	if err != nil {
		return nil, err
	}
	r, err := resolverOf(ic)
	if err != nil || r == nil {
		return instance, err
	}
	service, ok := instance.(transfer.Transferrer)
	if !ok {
		return nil, fmt.Errorf("decorate transfer service: %T is not one", instance)
	}
	db, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, err
	}
	manager, err := ic.GetSingle(plugins.LeasePlugin)
	if err != nil {
		return nil, err
	}
	deleteStaleLeases(ic.Context, db.(*metadata.DB), manager.(leases.Manager))
	return &resolver.Transferrer{
		Inner:         service,
		Routes:        r.Routes,
		Leases:        manager.(leases.Manager),
		Content:       db.(*metadata.DB).ContentStore(),
		Downloads:     &r.Downloads,
		DiscardLayers: r.Discard.Load,
	}, nil
}

// resolverOf returns the resolver, nil if an operator disabled it.
func resolverOf(ic *plugin.InitContext) (*Resolver, error) {
	instance, err := ic.GetByID(ResolverPlugin, ResolverID)
	if errors.Is(err, plugin.ErrPluginNotFound) {
		log.G(ic.Context).Warnf("%s is disabled: pulls are stock containerd's", ResolverURI)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return instance.(*Resolver), nil
}

// deleteStaleLeases deletes what pulls left that ended with containerd: no pull runs yet.
func deleteStaleLeases(ctx context.Context, db *metadata.DB, manager leases.Manager) {
	var names []string
	if err := db.View(func(tx *bolt.Tx) (err error) {
		names, err = metadata.NewNamespaceStore(tx).List(ctx)
		return err
	}); err != nil {
		log.G(ctx).WithError(err).Warn("list namespaces, to delete leases of pulls that were killed")
	}
	for _, name := range names {
		ctx := namespaces.WithNamespace(ctx, name)
		stale, err := manager.List(ctx, `labels."`+resolver.LeaseLabel+`"`)
		if err != nil {
			log.G(ctx).WithError(err).Warn("list leases of pulls that were killed")
		}
		for _, lease := range stale {
			if err := manager.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
				log.G(ctx).WithError(err).WithField("lease", lease.ID).Warn("delete lease of a pull that was killed")
			}
		}
	}
}
