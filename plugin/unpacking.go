// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/containerd/containerd/v2/core/transfer"
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
// least n layers may be unpacked at once, n if an operator set nothing. It is no copy by way of TOML, in which an empty list and none are one.
func withUnpacks(config any, n int) (any, error) {
	from := reflect.ValueOf(config)
	changed := reflect.New(from.Type().Elem())
	changed.Elem().Set(from.Elem())
	unpacks, err := unpacksOf(config)
	if err == nil && (unpacks < n || unpacks == unlimited) {
		err = toml.Unmarshal(fmt.Appendf(nil, "max_concurrent_unpacks = %d", n), changed.Interface())
	}
	if err != nil {
		return nil, fmt.Errorf("copy the transfer service's stanza: %w", err)
	}
	return changed.Interface(), nil
}

func unpacksOf(config any) (int, error) {
	var set struct {
		Unpacks int `toml:"max_concurrent_unpacks"`
	}
	text, err := toml.Marshal(config)
	if err == nil {
		err = toml.Unmarshal(text, &set)
	}
	return set.Unpacks, err
}

// unsetUnpacks makes the default of max_concurrent_unpacks 0, where containerd's is 1. To containerd both are one layer at a
// time, so that a stanza that is left behind means to stock what it did; to us an operator's 1 is not the default.
func unsetUnpacks(config any) error {
	return toml.Unmarshal([]byte("max_concurrent_unpacks = 0"), config)
}

// mostUnpacks is how many layers of a pull are unpacked at once at most, unless an operator says otherwise: a disk has little
// more to give.
const mostUnpacks = 4

// unlimited is a max_concurrent_unpacks that nobody waits for.
const unlimited = 1 << 30

// setUnpacks has the transfer service unpack layers as they come, and returns how many of one pull may be at once: one for
// each core, [mostUnpacks] at most. What an operator set stays, and 0 is returned.
func setUnpacks(config any, cores int) (int, error) {
	unpacks, err := unpacksOf(config)
	if err == nil && unpacks != 0 || cores == 1 {
		return 0, err
	}
	if err == nil {
		err = toml.Unmarshal(fmt.Appendf(nil, "max_concurrent_unpacks = %d", unlimited), config)
	}
	if err != nil {
		return 0, fmt.Errorf("change the transfer service's stanza: %w", err)
	}
	return min(cores, mostUnpacks), nil
}

// firstErrors is a transfer service that unpacks several layers of an image at once, and whose error is of the first that fails,
// as when there is one at a time. containerd joins those of all layers, most of which are "aborted".
type firstErrors struct{ transfer.Transferrer }

// Transfer implements [transfer.Transferrer].
func (f firstErrors) Transfer(ctx context.Context, src, dst any, opts ...transfer.Opt) error {
	return firstError(f.Transferrer.Transfer(ctx, src, dst, opts...))
}

// firstError returns the first of the errors that err joins, by [errors.Join] at its top, and else err.
func firstError(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || reflect.TypeOf(err) != reflect.TypeOf(errors.Join(err)) { // an error with several %w unwraps so, too
		return err
	}
	return firstError(joined.Unwrap()[0])
}
