// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/plugin"

	"github.com/berth-edge/berth/loader"
	"github.com/berth-edge/berth/resolver"
)

// routeTransfers makes containerd's transfer service pull along routes.
func routeTransfers(ic *plugin.InitContext, inner initFn) (any, error) {
	instance, err := inner(ic)
	if err != nil {
		return nil, err
	}
	r, err := resolverOf(ic)
	if err != nil {
		return nil, err
	}
	var unpacked unpacking
	var unpacks int
	if r != nil {
		// The first call has put containerd's defaults into the configuration.
		if unpacked, err = unpackForAll(ic); err != nil {
			return nil, err
		}
		if unpacks, err = setUnpacks(ic.Config, runtime.GOMAXPROCS(0)); err != nil {
			return nil, err
		}
		if instance, err = inner(ic); err != nil {
			return nil, err
		}
	}
	service, ok := instance.(transfer.Transferrer)
	if !ok {
		return nil, fmt.Errorf("decorate transfer service: %T is not one", instance)
	}
	if r == nil {
		return &transfers{service, ic, inner}, nil
	}
	db, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, err
	}
	manager, err := ic.GetSingle(plugins.LeasePlugin)
	if err != nil {
		return nil, err
	}
	boot := bootID(ic.Context)
	removeLeftovers(ic, db.(*metadata.DB), manager.(leases.Manager), boot)
	return &transfers{&resolver.Transferrer{
		Inner:         firstErrors{service},
		Routes:        r.Routes,
		Leases:        manager.(leases.Manager),
		Content:       db.(*metadata.DB).ContentStore(),
		Downloads:     &r.Downloads,
		DiscardLayers: r.Discard.Load,
		IsLazy:        unpacked.isLazy,
		Unpacks:       unpacks,
		Boot:          boot,
		KeepLabels:    []string{loader.BundleLabel, loader.LoadedLabel, loader.PinLabel},
	}, ic, inner}, nil
}

// transfers is the transfer service, and what it was made of.
type transfers struct {
	transfer.Transferrer
	ic    *plugin.InitContext
	inner initFn
}

// forBundles makes a second transfer service, with containerd's stanza but for two things: as many layers are unpacked at
// once as images are loaded, and images need not be put to verifiers. An online one would hold up a start without a network.
func (t *transfers) forBundles(parallel int, verify bool) (transfer.Transferrer, error) {
	set := plugin.NewPluginSet()
	for _, p := range t.ic.GetAll() {
		if p.Registration.Type == plugins.ImageVerifierPlugin && !verify {
			continue
		}
		if err := set.Add(p); err != nil {
			return nil, err
		}
	}
	ic := plugin.NewContext(t.ic.Context, set, t.ic.Properties)
	config, err := withUnpacks(t.ic.Config, parallel)
	if err != nil {
		return nil, err
	}
	ic.Config = config
	instance, err := t.inner(ic)
	if err != nil {
		return nil, err
	}
	return firstErrors{instance.(transfer.Transferrer)}, nil
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
