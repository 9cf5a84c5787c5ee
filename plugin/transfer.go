// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/pelletier/go-toml/v2"

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
	if r != nil {
		// The first call has put containerd's defaults into the configuration.
		if err := unpackForAll(ic); err != nil {
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
	removeLeftovers(ic, db.(*metadata.DB), manager.(leases.Manager))
	return &transfers{&resolver.Transferrer{
		Inner:         service,
		Routes:        r.Routes,
		Leases:        manager.(leases.Manager),
		Content:       db.(*metadata.DB).ContentStore(),
		Downloads:     &r.Downloads,
		DiscardLayers: r.Discard.Load,
		IsLazy:        func(snapshotter string) bool { return isLazy(ic, cmp.Or(snapshotter, defaults.DefaultSnapshotter)) },
		KeepLabels:    []string{loader.BundleLabel, loader.PinLabel},
	}, ic, inner}, nil
}

// unpackForAll has the transfer service unpack for every local snapshotter. CRI's own pull, whose place it takes, does so;
// the service would refuse pulls for any that its stanza does not name.
func unpackForAll(ic *plugin.InitContext) error {
	type unpack struct {
		Platform    string   `toml:"platform"`
		Snapshotter string   `toml:"snapshotter"`
		Differ      string   `toml:"differ"`
		ConfigType  string   `toml:"config_type"`
		LayerTypes  []string `toml:"layer_types"`
		Optional    bool     `toml:"optional"`
	}
	var set struct {
		Unpacks []unpack `toml:"unpack_config"`
	}
	text, err := toml.Marshal(ic.Config)
	if err == nil {
		err = toml.Unmarshal(text, &set)
	}
	if err != nil {
		return fmt.Errorf("read the transfer service's stanza: %w", err)
	}
	named := map[string]bool{defaults.DefaultSnapshotter: true} // which clients that name none get, if it is there
	for _, u := range set.Unpacks {
		named[u.Snapshotter] = true
	}
	for _, p := range ic.GetAll() {
		id := p.Registration.ID
		if p.Registration.Type != plugins.SnapshotPlugin || p.Err() != nil || named[id] || isLazy(ic, id) {
			continue
		}
		set.Unpacks = append(set.Unpacks, unpack{
			Platform: platforms.Format(platforms.DefaultSpec()), Snapshotter: id, Differ: defaults.DefaultDiffer, Optional: true,
		})
	}
	if text, err = toml.Marshal(set); err == nil {
		err = toml.Unmarshal(text, ic.Config)
	}
	if err != nil {
		return fmt.Errorf("change the transfer service's stanza: %w", err)
	}
	return nil
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
	return instance.(transfer.Transferrer), nil
}

// withUnpacks returns a copy of the transfer service's configuration, whose type is containerd's own secret, in which at
// least n layers may be unpacked at once.
func withUnpacks(config any, n int) (any, error) {
	text, err := toml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("copy the transfer service's stanza: %w", err)
	}
	changed := reflect.New(reflect.TypeOf(config).Elem()).Interface()
	if err := toml.Unmarshal(text, changed); err != nil {
		return nil, fmt.Errorf("copy the transfer service's stanza: %w", err)
	}
	var set struct {
		Unpacks int `toml:"max_concurrent_unpacks"`
	}
	if err := toml.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("copy the transfer service's stanza: %w", err)
	}
	if set.Unpacks >= n {
		return changed, nil
	}
	return changed, toml.Unmarshal(fmt.Appendf(nil, "max_concurrent_unpacks = %d", n), changed)
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
