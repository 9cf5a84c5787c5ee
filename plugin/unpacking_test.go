// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/containerd/errdefs"
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
			if err := unsetUnpacks(ic.Config); err != nil {
				t.Fatal(err)
			}
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
			if got := unpacksIn(t, last); got != "7" {
				t.Errorf("got %s layers of bundles unpacked at once, want 7", got)
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

// How many layers of a pull are unpacked at once, by what the operator says and how many cores there are.
func TestUnpacksOfPulls(t *testing.T) {
	for _, tt := range []struct {
		stanza string
		cores  int
		want   int    // by us
		left   string // to containerd
	}{
		{"", 1, 0, "0"}, // one at a time
		{"", 2, 2, "1073741824"},
		{"", 4, 4, "1073741824"},
		{"", 64, 4, "1073741824"},
		{"max_concurrent_downloads = 9\n", 3, 3, "1073741824"},
		{"max_concurrent_unpacks = 0\n", 3, 3, "1073741824"},
		{"max_concurrent_unpacks = 1\n", 8, 0, "1"},
		{"max_concurrent_unpacks = 7\n", 2, 0, "7"},
	} {
		ic, _ := transferContext(t, "", []string{"overlayfs"}, nil)
		if err := unsetUnpacks(ic.Config); err != nil {
			t.Fatal(err)
		}
		if got := unpacksIn(t, ic.Config); got != "0" {
			t.Errorf("got %s as the default, want 0", got)
		}
		if err := toml.Unmarshal([]byte(tt.stanza), ic.Config); err != nil {
			t.Fatal(err)
		}
		got, err := setUnpacks(ic.Config, tt.cores)
		if left := unpacksIn(t, ic.Config); err != nil || got != tt.want || left != tt.left {
			t.Errorf("%q on %d cores: got %d at once, %v, and %s for containerd, want %d and %s", tt.stanza, tt.cores, got, err, left, tt.want, tt.left)
		}
	}
}

func snapshottersOf(t *testing.T, config any) (names []string) {
	t.Helper()
	for _, match := range regexp.MustCompile(`(?m)^snapshotter = '(.*)'$`).FindAllStringSubmatch(marshalled(t, config), -1) {
		names = append(names, match[1])
	}
	return names
}

func unpacksIn(t *testing.T, config any) string {
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

// What containerd joins of the layers of an image is the error of the first, of whatever kind that is; what wraps several is whole.
func TestFirstError(t *testing.T) {
	first := fmt.Errorf("extract layer: %w", errdefs.ErrResourceExhausted)
	var joined error
	for _, err := range []error{first, errors.New("aborted"), errors.New("aborted")} {
		joined = errors.Join(joined, err)
	}
	several := fmt.Errorf("two kinds: %w: %w", first, errdefs.ErrNotFound)
	for _, tt := range []struct{ in, want error }{
		{nil, nil}, {first, first}, {joined, first}, {errors.Join(joined, context.Canceled), first}, {errors.Join(errors.Join(nil, several)), several},
	} {
		if got := firstError(tt.in); got != tt.want { //nolint:errorlint // the very one
			t.Errorf("%v: got %v, want %v", tt.in, got, tt.want)
		}
	}
}
