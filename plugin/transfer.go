// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/plugin"

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
	removeLeftovers(ic, db.(*metadata.DB), manager.(leases.Manager))
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
