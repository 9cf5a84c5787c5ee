// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins"
	_ "github.com/containerd/containerd/v2/plugins/transfer"
	"github.com/containerd/plugin"
	"github.com/pelletier/go-toml/v2"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-edge/berth/resolver"
)

// fakeSnapshotter and fakeDiffer are there, and are not used.
type (
	fakeSnapshotter struct{ snapshots.Snapshotter }
	fakeDiffer      struct {
		diff.Comparer
		diff.Applier
	}
)

// transferContext is the context of containerd's transfer service with a stanza, beside our resolver, the walking differ and
// snapshotters of which those of lazy fetch layers themselves. init is the InitFn of containerd's service.
func transferContext(t *testing.T, stanza string, local, lazy []string) (ic *plugin.InitContext, init initFn) {
	t.Helper()
	k := newKilled(t)
	file, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	all := map[string]snapshots.Snapshotter{}
	for _, name := range slices.Concat(local, lazy) {
		all[name] = fakeSnapshotter{}
		k.add(t, plugins.SnapshotPlugin, name, func(ic *plugin.InitContext) (any, error) {
			if slices.Contains(lazy, name) {
				ic.Meta.Exports["enable_remote_snapshot_annotations"] = "true"
			}
			return fakeSnapshotter{}, nil
		})
	}
	db := metadata.NewDB(file, k.blobs, all)
	if err := db.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, _, _ := newResolver(t, filepath.Join(t.TempDir(), "*.toml"))
	for _, p := range []struct {
		kind     plugin.Type
		id       string
		instance any
	}{
		{plugins.MetadataPlugin, "bolt", db}, {plugins.LeasePlugin, "manager", metadata.NewLeaseManager(db)},
		{plugins.DiffPlugin, "walking", fakeDiffer{}}, {ResolverPlugin, ResolverID, r},
	} {
		k.add(t, p.kind, p.id, func(*plugin.InitContext) (any, error) { return p.instance, nil })
	}
	transfers, err := registration("io.containerd.transfer.v1.local")
	if err != nil {
		t.Fatal(err)
	}
	k.ic.Config = reflect.New(reflect.TypeOf(transfers.Config).Elem()).Interface()
	reflect.ValueOf(k.ic.Config).Elem().Set(reflect.ValueOf(transfers.Config).Elem())
	if err := toml.Unmarshal([]byte(stanza), k.ic.Config); err != nil {
		t.Fatal(err)
	}
	return k.ic, transfers.InitFn
}

// The snapshotters that each of our transfer services unpacks for are those of the stanza and every other local one; none
// at all if the stanza says so. What a client gets that names none may be lazy.
func TestUnpacking(t *testing.T) {
	native := "[[unpack_config]]\nplatform = \"linux\"\nsnapshotter = \"native\"\ndiffer = \"walking\"\n"
	stargz := "[[unpack_config]]\nplatform = \"linux\"\nsnapshotter = \"stargz\"\ndiffer = \"walking\"\n"
	standard := "[[unpack_config]]\nplatform = \"linux\"\nsnapshotter = \"" + defaults.DefaultSnapshotter + "\"\ndiffer = \"walking\"\n"
	for _, tt := range []struct {
		name, stanza string
		want         []string
		lazy         bool // what a client gets that names none
	}{
		{"default", "", []string{"overlayfs", "erofs", "blockfile", "native"}, false},
		{"none", "unpack_config = []\n", nil, false},
		{"one", native, []string{"native", "blockfile"}, false},
		{"lazy", stargz, []string{"stargz", "blockfile", "native"}, true},
		{"lazy and local", native + stargz, []string{"native", "stargz", "blockfile"}, true},
		{"lazy and default", stargz + standard, []string{"stargz", "overlayfs", "blockfile", "native"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ic, init := transferContext(t, tt.stanza, []string{"blockfile", "native", "overlayfs"}, []string{"stargz", "soci"})
			var last any
			instance, err := routeTransfers(ic, func(ic *plugin.InitContext) (any, error) {
				last = ic.Config
				return init(ic)
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := snapshottersOf(t, last); !slices.Equal(got, tt.want) {
				t.Errorf("got pulls unpacked for %q, want %q", got, tt.want)
			}
			transfers := instance.(*transfers)
			routed := transfers.Transferrer.(*resolver.Transferrer)
			for snapshotter, want := range map[string]bool{"": tt.lazy, "native": false, "stargz": true, "absent": false} {
				if got := routed.IsLazy(snapshotter); got != want {
					t.Errorf("snapshotter %q: got lazy %t, want %t", snapshotter, got, want)
				}
			}
			if _, err := transfers.forBundles(7, true); err != nil {
				t.Fatal(err)
			}
			if got := snapshottersOf(t, last); !slices.Equal(got, tt.want) {
				t.Errorf("got bundles unpacked for %q, want %q", got, tt.want)
			}
			if got, before := unpacksOf(t, last), unpacksOf(t, ic.Config); got != "7" || before != "1" {
				t.Errorf("got %s layers unpacked at once of bundles, %s of pulls, want 7 and 1", got, before)
			}
		})
	}
}

// With no default there, a client that names none gets another.
func TestUnpackingWithoutDefault(t *testing.T) {
	standard := "[[unpack_config]]\nplatform = \"linux\"\nsnapshotter = \"" + defaults.DefaultSnapshotter + "\"\ndiffer = \"walking\"\noptional = true\n"
	ic, init := transferContext(t, standard+"[[unpack_config]]\nplatform = \"linux\"\nsnapshotter = \"stargz\"\ndiffer = \"walking\"\n", []string{"native"}, []string{"stargz"})
	instance, err := routeTransfers(ic, init)
	if err != nil {
		t.Fatal(err)
	}
	if !instance.(*transfers).Transferrer.(*resolver.Transferrer).IsLazy("") {
		t.Error(`got "" not lazy, want it lazy as the only one that is there is`)
	}
}

func snapshottersOf(t *testing.T, config any) (names []string) {
	t.Helper()
	for _, match := range regexp.MustCompile(`(?m)^snapshotter = '(.*)'$`).FindAllStringSubmatch(marshalled(t, config), -1) {
		names = append(names, match[1])
	}
	return names
}

func unpacksOf(t *testing.T, config any) string {
	t.Helper()
	return regexp.MustCompile(`(?m)^max_concurrent_unpacks = (\d+)$`).FindStringSubmatch(marshalled(t, config))[1]
}

func marshalled(t *testing.T, config any) string {
	t.Helper()
	text, err := toml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
