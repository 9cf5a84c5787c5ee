// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/pelletier/go-toml/v2"
)

// unpacking is what the transfer service unpacks with.
type unpacking struct {
	ic           *plugin.InitContext
	snapshotters []string // in the order of the stanza
}

// isLazy reports whether a pull that names a snapshotter, or none, unpacks with one that fetches layers itself. A pull that
// names none gets containerd's default where the service has that, and else one of the others.
func (u unpacking) isLazy(snapshotter string) bool {
	if snapshotter == "" && u.has(defaults.DefaultSnapshotter) {
		snapshotter = defaults.DefaultSnapshotter
	}
	if snapshotter != "" {
		return isLazy(u.ic, snapshotter)
	}
	return slices.ContainsFunc(u.snapshotters, func(name string) bool { return isLazy(u.ic, name) })
}

func (u unpacking) has(snapshotter string) bool {
	p := u.ic.Plugins().Get(plugins.SnapshotPlugin, snapshotter)
	return p != nil && p.Err() == nil && slices.Contains(u.snapshotters, snapshotter)
}

// unpackForAll has the transfer service unpack for every local snapshotter. CRI's own pull, whose place it takes, does so;
// the service would refuse pulls for any that its stanza does not name. A list that is empty says to unpack nothing, and
// is left so; containerd has put its defaults where there is no list.
func unpackForAll(ic *plugin.InitContext) (unpacking, error) {
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
		return unpacking{}, fmt.Errorf("read the transfer service's stanza: %w", err)
	}
	u := unpacking{ic: ic}
	if len(set.Unpacks) == 0 {
		return u, nil
	}
	for _, unpack := range set.Unpacks {
		u.snapshotters = append(u.snapshotters, unpack.Snapshotter)
	}
	for _, p := range ic.GetAll() {
		id := p.Registration.ID
		if p.Registration.Type != plugins.SnapshotPlugin || p.Err() != nil || isLazy(ic, id) || slices.Contains(u.snapshotters, id) ||
			id == defaults.DefaultSnapshotter { // which clients that name none would get, against the stanza
			continue
		}
		u.snapshotters = append(u.snapshotters, id)
		set.Unpacks = append(set.Unpacks, unpack{
			Platform: platforms.Format(platforms.DefaultSpec()), Snapshotter: id, Differ: defaults.DefaultDiffer, Optional: true,
		})
	}
	if text, err = toml.Marshal(set); err == nil {
		err = toml.Unmarshal(text, ic.Config)
	}
	if err != nil {
		return unpacking{}, fmt.Errorf("change the transfer service's stanza: %w", err)
	}
	return u, nil
}

// withUnpacks returns a copy of the transfer service's configuration, whose type is containerd's own secret, in which at
// least n layers may be unpacked at once. It is no copy by way of TOML, in which an empty list and none are one.
func withUnpacks(config any, n int) (any, error) {
	from := reflect.ValueOf(config)
	changed := reflect.New(from.Type().Elem())
	changed.Elem().Set(from.Elem())
	var set struct {
		Unpacks int `toml:"max_concurrent_unpacks"`
	}
	text, err := toml.Marshal(config)
	if err == nil {
		err = toml.Unmarshal(text, &set)
	}
	if err == nil && set.Unpacks < n {
		err = toml.Unmarshal(fmt.Appendf(nil, "max_concurrent_unpacks = %d", n), changed.Interface())
	}
	if err != nil {
		return nil, fmt.Errorf("copy the transfer service's stanza: %w", err)
	}
	return changed.Interface(), nil
}
