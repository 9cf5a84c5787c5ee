// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package localpull_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	_ "github.com/containerd/containerd/v2/plugins/cri/images"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/pelletier/go-toml/v2"

	"github.com/berth-edge/berth/plugin/localpull"
)

// criConfig is a copy of the configuration that containerd registers for CRI's images, with the TOML of a stanza decoded
// into it as containerd does.
func criConfig(t *testing.T, stanza string) any {
	t.Helper()
	var registered any
	registry.Graph(func(r *plugin.Registration) bool {
		if r.URI() == localpull.Section {
			registered = r.Config
		}
		return false
	})
	if registered == nil {
		t.Fatalf("got no registration of %s", localpull.Section)
	}
	text, err := toml.Marshal(registered)
	if err != nil {
		t.Fatal(err)
	}
	config := reflect.New(reflect.TypeOf(registered).Elem()).Interface()
	for _, text := range []string{string(text), stanza} {
		if err := toml.Unmarshal([]byte(text), config); err != nil {
			t.Fatal(err)
		}
	}
	return config
}

func local(string) bool { return false }

// Each of the settings with which containerd 2.4.2 pulls past the transfer service is found in CRI's own configuration,
// and either refused or changed in it.
func TestEachSetting(t *testing.T) {
	for _, tt := range []struct {
		stanza, key, text string
		refused           bool
	}{
		{"use_local_image_pull = true", "use_local_image_pull", "taken over", false},
		{"disable_snapshot_annotations = false", "disable_snapshot_annotations", "taken over", false},
		{"discard_unpacked_layers = true", "discard_unpacked_layers", "taken over", false},
		{"max_concurrent_downloads = 8", "max_concurrent_downloads", "taken over: the limit of 8", false},
		{"image_pull_with_sync_fs = true", "image_pull_with_sync_fs", "taken over", false},
		{"[registry.mirrors.\"docker.io\"]\nendpoint = [\"https://m.io\"]", "registry.mirrors", "hosts.toml", true},
		{"[registry.configs.\"m.io\".tls]\ninsecure_skip_verify = true", "registry.configs", "hosts.toml", true},
		{"[registry.auths.\"https://m.io\"]\nusername = \"u\"", "registry.auths", "hosts.toml", true},
	} {
		t.Run(tt.key, func(t *testing.T) {
			config := criConfig(t, tt.stanza)
			settings, err := localpull.Read(config)
			if err != nil {
				t.Fatal(err)
			}
			found := settings.Check(local)
			if len(found) != 1 || found[0].Key != tt.key || found[0].Refused != tt.refused || !strings.Contains(found[0].Text, tt.text) {
				t.Fatalf("got %+v, want %s, refused %t, %q", found, tt.key, tt.refused, tt.text)
			}
			if want := `plugins."io.containerd.cri.v1.images".` + tt.key + ": "; !strings.HasPrefix(found[0].String(), want) {
				t.Errorf("got %q, want %q", found[0], want)
			}
			if err := localpull.TakeOver(config); err != nil {
				t.Fatal(err)
			}
			after, err := localpull.Read(config)
			if err != nil {
				t.Fatal(err)
			}
			if left := after.Check(local); (len(left) > 0) != tt.refused {
				t.Errorf("taken over: got %+v left, want some %t", left, tt.refused)
			}
		})
	}
}

// With containerd's defaults nothing is found and nothing is changed.
func TestDefaults(t *testing.T) {
	config := criConfig(t, "")
	settings, err := localpull.Read(config)
	if err != nil {
		t.Fatal(err)
	}
	if found := settings.Check(local); len(found) > 0 {
		t.Errorf("got %v, want nothing", found)
	}
	if settings.MaxConcurrentDownloads != 3 || settings.Snapshotter == "" || !settings.DisableSnapshotAnnotations {
		t.Errorf("got %+v, want containerd's defaults", settings)
	}
	if err := localpull.TakeOver(config); err != nil {
		t.Fatal(err)
	}
	if want := criConfig(t, ""); !reflect.DeepEqual(config, want) {
		t.Errorf("got %+v, want %+v", config, want)
	}
}

// What is taken over leaves every other setting as it was.
func TestTakeOverLeavesTheRest(t *testing.T) {
	rest := "snapshotter = \"native\"\nstats_collect_period = 7\n[registry]\nconfig_path = \"/etc/certs.d\"\n[pinned_images]\nsandbox = \"r.io/pause:1\"\n"
	config := criConfig(t, "use_local_image_pull = true\nmax_concurrent_downloads = 1\n"+rest)
	if err := localpull.TakeOver(config); err != nil {
		t.Fatal(err)
	}
	if want := criConfig(t, rest); !reflect.DeepEqual(config, want) {
		t.Errorf("got %+v, want %+v", config, want)
	}
}

// All are found at once, and no limit of downloads is said as such.
func TestAllSettings(t *testing.T) {
	settings, err := localpull.Read(criConfig(t, `
use_local_image_pull = true
disable_snapshot_annotations = false
discard_unpacked_layers = true
max_concurrent_downloads = 0
image_pull_with_sync_fs = true
[registry.mirrors."a.io"]
endpoint = ["https://m.io"]
[registry.configs."a.io".tls]
[registry.auths."https://a.io"]
`))
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, f := range settings.Check(local) {
		keys = append(keys, f.Key)
		if f.Key == "max_concurrent_downloads" && !strings.Contains(f.Text, "not limited") {
			t.Errorf("got %q, want that downloads are not limited", f.Text)
		}
	}
	want := []string{"registry.mirrors", "registry.configs", "registry.auths", "use_local_image_pull", "disable_snapshot_annotations",
		"discard_unpacked_layers", "max_concurrent_downloads", "image_pull_with_sync_fs"}
	if !slices.Equal(keys, want) {
		t.Errorf("got %q, want %q", keys, want)
	}
}

// A snapshotter that fetches lazily is refused, one for a runtime's platform too.
func TestLazySnapshotter(t *testing.T) {
	stargz := func(name string) bool { return name == "stargz" }
	for _, tt := range []struct {
		stanza string
		want   bool
	}{
		{"snapshotter = \"stargz\"", true},
		{"snapshotter = \"overlayfs\"", false},
		{"[runtime_platforms.lazy]\nplatform = \"linux/amd64\"\nsnapshotter = \"stargz\"", true},
		{"[runtime_platforms.same]\nplatform = \"linux/amd64\"\nsnapshotter = \"\"", false},
	} {
		settings, err := localpull.Read(criConfig(t, tt.stanza))
		if err != nil {
			t.Fatal(err)
		}
		found := settings.Check(stargz)
		if got := len(found) == 1 && found[0].Key == "snapshotter" && found[0].Refused && strings.Contains(found[0].Text, `"stargz" fetches layers itself`); got != tt.want {
			t.Errorf("%s: got %v, want it refused: %t", tt.stanza, found, tt.want)
		}
	}
}

// A lazy snapshotter of a runtime is found where it stands; CRI's own configuration has one such setting.
func TestLazySnapshotterOfRuntime(t *testing.T) {
	config := map[string]any{"containerd": map[string]any{"default_runtime_name": "runc", "runtimes": map[string]any{
		"runc": map[string]any{"snapshotter": ""},
		"kata": map[string]any{"snapshotter": "stargz", "runtime_type": "io.containerd.kata.v2"},
		"fast": map[string]any{"snapshotter": "stargz"},
		"slow": map[string]any{"snapshotter": "native"},
	}}}
	runtimes, err := localpull.ReadRuntimes(config)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range runtimes.Check(func(name string) bool { return name == "stargz" || name == "" }) {
		got = append(got, fmt.Sprint(f.Refused, " ", f))
	}
	const text = `: "stargz" fetches layers itself, from the host that the image's name says; use a local snapshotter such as overlayfs`
	want := []string{
		`true plugins."io.containerd.cri.v1.runtime".containerd.runtimes.fast.snapshotter` + text,
		`true plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata.snapshotter` + text,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if r, err := localpull.ReadRuntimes(map[string]any{"containerd": "x"}); err == nil || !strings.HasPrefix(err.Error(), "read the settings of CRI's runtimes: ") {
		t.Errorf("got %v, %v, want an error", r, err)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, config := range []any{nil, map[string]any{"max_concurrent_downloads": "three"}} {
		if s, err := localpull.Read(config); err == nil || !strings.HasPrefix(err.Error(), "read CRI's settings: ") {
			t.Errorf("%v: got %+v, %v, want an error", config, s, err)
		}
	}
	if err := localpull.TakeOver(new(string)); err == nil || !strings.HasPrefix(err.Error(), "take CRI's settings over: ") {
		t.Errorf("got %v, want an error", fmt.Sprint(err))
	}
}
