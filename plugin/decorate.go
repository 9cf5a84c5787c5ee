// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package plugin builds Berth into containerd: it registers our plugins, and decorates those of containerd that a pull
// goes through.
//
// Containerd's own plugins keep their ids, their stanzas and their order, since clients inside containerd ask for the
// one plugin of a type. [Decorate] therefore wraps the InitFn of a registration that is already there:
//
//	io.containerd.transfer.v1.local     pulls go along a route (package resolver)
//	io.containerd.cri.v1.images         settings that would make CRI pull past the transfer service are taken over
//	io.containerd.metadata.v1.bolt      how often its database was written before this start is noted, for the loader
//	io.containerd.differ.v1.walking     unpacked layers are on disk before they are committed
//	io.containerd.differ.v1.erofs       the same
//
// What decompresses a layer is no plugin: containerd has a list of such processors, which ours is put in front of, see layers.go.
package plugin

import (
	"fmt"

	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

type initFn func(*plugin.InitContext) (any, error)

// decoration is one plugin of containerd that is wrapped.
type decoration struct {
	uri      string
	requires []plugin.Type
	wrap     func(*plugin.InitContext, initFn) (any, error)
	defaults func(config any) error // changes its default configuration, if it has one; nil changes nothing
}

var decorations = []decoration{
	{uri: "io.containerd.transfer.v1.local", requires: []plugin.Type{ResolverPlugin}, wrap: routeTransfers, defaults: unsetUnpacks},
	{uri: "io.containerd.cri.v1.images", requires: []plugin.Type{ResolverPlugin}, wrap: keepCRIOnRoutes},
	{uri: "io.containerd.metadata.v1.bolt", wrap: noteWrites},
	{uri: "io.containerd.differ.v1.walking", wrap: syncApplies},
	{uri: "io.containerd.differ.v1.erofs", wrap: syncApplies},
}

// Decorate wraps containerd's plugins. It is called once, after they are registered and before containerd starts. An
// error means that this containerd is not one that Berth knows; it must not start then, since pulls would go past the
// rules.
func Decorate() error {
	for _, d := range decorations {
		r, err := registration(d.uri)
		if err != nil {
			return err
		}
		if d.defaults != nil && r.Config != nil {
			if err := d.defaults(r.Config); err != nil {
				return fmt.Errorf("decorate %s: %w", d.uri, err)
			}
		}
		inner := r.InitFn
		r.Requires = append(r.Requires[:len(r.Requires):len(r.Requires)], d.requires...)
		r.InitFn = func(ic *plugin.InitContext) (any, error) { return d.wrap(ic, inner) }
	}
	return nil
}

// registration finds the one registration of a plugin. The filter of a graph is handed pointers to them.
func registration(uri string) (*plugin.Registration, error) {
	var found []*plugin.Registration
	registry.Graph(func(r *plugin.Registration) bool {
		if r.URI() == uri {
			found = append(found, r)
		}
		return false
	})
	if len(found) != 1 {
		return nil, fmt.Errorf("decorate %s: registered %d times, want once", uri, len(found))
	}
	return found[0], nil
}
