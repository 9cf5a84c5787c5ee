// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/core/introspection"
	"github.com/containerd/containerd/v2/plugins"
	_ "github.com/containerd/containerd/v2/plugins/cri/images"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/pelletier/go-toml/v2"

	"github.com/berth-edge/berth/plugin/localpull"
)

// isolate empties containerd's registry of plugins for one test.
func isolate(t *testing.T) {
	t.Helper()
	var before []*plugin.Registration
	registry.Graph(func(r *plugin.Registration) bool {
		before = append(before, r)
		return false
	})
	registry.Reset()
	t.Cleanup(func() {
		registry.Reset()
		for _, r := range before {
			registry.Register(r)
		}
	})
}

// register registers a plugin by its name in config.toml.
func register(uri string) *plugin.Registration {
	i := strings.LastIndexByte(uri, '.')
	r := &plugin.Registration{
		Type: plugin.Type(uri[:i]), ID: uri[i+1:],
		Requires: append(make([]plugin.Type, 0, 8), plugins.EventPlugin),
		InitFn:   func(*plugin.InitContext) (any, error) { return nil, errors.New("inner " + uri) },
	}
	registry.Register(r)
	return r
}

func TestDecorate(t *testing.T) {
	isolate(t)
	for _, d := range decorations {
		register(d.uri)
	}
	other := register("io.containerd.other.v1.local")
	if err := Decorate(); err != nil {
		t.Fatal(err)
	}
	for _, d := range decorations {
		r, err := registration(d.uri)
		if err != nil {
			t.Fatal(err)
		}
		if want := append([]plugin.Type{plugins.EventPlugin}, d.requires...); !slices.Equal(r.Requires, want) {
			t.Errorf("%s: got it requiring %q, want %q", d.uri, r.Requires, want)
		}
		// Each calls what it wraps, also where the resolver is disabled.
		if _, err := r.InitFn(plugin.NewContext(t.Context(), plugin.NewPluginSet(), nil)); err == nil || err.Error() != "inner "+d.uri {
			t.Errorf("%s: got %v, want the error of what it wraps", d.uri, err)
		}
	}
	if !slices.Equal(other.Requires, []plugin.Type{plugins.EventPlugin}) {
		t.Errorf("got another plugin requiring %q", other.Requires)
	}
}

// A19: a containerd that Berth does not know is not started: a plugin is missing, or there are two of one name.
func TestDecorateRefuses(t *testing.T) {
	for _, d := range decorations {
		t.Run("without "+d.uri, func(t *testing.T) {
			isolate(t)
			for _, other := range decorations {
				if other.uri != d.uri {
					register(other.uri)
				}
			}
			if err := Decorate(); err == nil || err.Error() != "decorate "+d.uri+": registered 0 times, want once" {
				t.Errorf("got %v, want that it is missing", err)
			}
		})
		t.Run("two of "+d.uri, func(t *testing.T) {
			isolate(t)
			for _, other := range decorations {
				register(other.uri)
			}
			second := register(d.uri + "2")
			second.ID = strings.TrimSuffix(second.ID, "2") // containerd's registry refuses a second one by its name
			if err := Decorate(); err == nil || err.Error() != "decorate "+d.uri+": registered 2 times, want once" {
				t.Errorf("got %v, want that there are two", err)
			}
		})
	}
}

// introspected is containerd's introspection service, which a pull of CRI's own asks.
type introspected struct{ introspection.Service }

func (introspected) Plugins(context.Context, ...string) (*introspectionapi.PluginsResponse, error) {
	return &introspectionapi.PluginsResponse{}, nil
}

// criContext is the context of CRI's InitFn with settings in CRI's own configuration, beside a resolver, or none.
func criContext(t *testing.T, r *Resolver, settings string) *plugin.InitContext {
	t.Helper()
	set := plugin.NewPluginSet()
	registered := plugin.Registration{
		Type: plugins.ServicePlugin, ID: services.IntrospectionService, InitFn: func(*plugin.InitContext) (any, error) { return introspected{}, nil },
	}
	if err := set.Add(registered.Init(plugin.NewContext(t.Context(), set, nil))); err != nil {
		t.Fatal(err)
	}
	if r != nil {
		registration := plugin.Registration{Type: ResolverPlugin, ID: ResolverID, InitFn: func(*plugin.InitContext) (any, error) { return r, nil }}
		if err := set.Add(registration.Init(plugin.NewContext(t.Context(), set, nil))); err != nil {
			t.Fatal(err)
		}
	}
	images, err := registration(localpull.Section)
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := toml.Marshal(images.Config)
	if err != nil {
		t.Fatal(err)
	}
	ic := plugin.NewContext(t.Context(), set, nil)
	ic.Config = reflect.New(reflect.TypeOf(images.Config).Elem()).Interface()
	for _, text := range []string{string(defaults), settings} {
		if err := toml.Unmarshal([]byte(text), ic.Config); err != nil {
			t.Fatal(err)
		}
	}
	return ic
}

// initCRI runs CRI's decorated InitFn. left are the settings that the InitFn of CRI itself saw, nil if it did not run.
func initCRI(t *testing.T, ic *plugin.InitContext) (left *localpull.Settings, err error) {
	t.Helper()
	_, err = keepCRIOnRoutes(ic, func(ic *plugin.InitContext) (any, error) {
		settings, err := localpull.Read(ic.Config)
		left = &settings
		return "CRI", err
	})
	return left, err
}

func TestCRIIsTakenOver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "berth.toml")
	writeFile(t, file, goodRules)
	r, _, _ := newResolver(t, file)
	ic := criContext(t, r, "use_local_image_pull = true\ndiscard_unpacked_layers = true\nmax_concurrent_downloads = 5\ndisable_snapshot_annotations = false\nimage_pull_with_sync_fs = true\n")
	left, err := initCRI(t, ic)
	if err != nil {
		t.Fatal(err)
	}
	if found := left.Check(func(string) bool { return false }); len(found) > 0 {
		t.Errorf("got CRI started with %v", found)
	}
	if !r.Discard.Load() || ic.Meta.Exports["DiscardUnpackedLayers"] != "true" {
		t.Errorf("got discard %t, exports %v, want layers discarded", r.Discard.Load(), ic.Meta.Exports)
	}
	if s := r.status(t.Context()); len(s.Cri) != 5 || s.CriRefused {
		t.Errorf("got status %v, want five settings taken over", s)
	}
}

// Rules and CRI's own mirrors do not go together: CRI is refused with the setting and the way out.
func TestCRIIsRefused(t *testing.T) {
	mirrors := "[registry.mirrors.\"docker.io\"]\nendpoint = [\"https://m.io\"]\n"
	for _, text := range []string{goodRules, "[[rules]\n"} {
		file := filepath.Join(t.TempDir(), "berth.toml")
		writeFile(t, file, text)
		r, _, _ := newResolver(t, file)
		left, err := initCRI(t, criContext(t, r, mirrors))
		if err == nil || left != nil {
			t.Fatalf("file %q: got CRI started with %+v, want it refused", text, left)
		}
		for _, want := range []string{"CRI is refused", `plugins."io.containerd.cri.v1.images".registry.mirrors: `, "[[rules]] of Berth", "hosts.toml", "remove it"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q in it", err, want)
			}
		}
	}
}

// Without rules CRI's mirrors are left alone, and its own pull works. Once there are rules, or a mistake in them, that pull
// is refused, which the status says.
func TestCRIWithoutRules(t *testing.T) {
	for _, tt := range []struct{ name, rules, want string }{
		{"rules", goodRules, "pulls of CRI are refused: rules came into force after containerd started"},
		{"mistake", "[[rules]\n", "pulls of CRI are refused, since Berth's configuration cannot be used"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			r, _, logged := newResolver(t, filepath.Join(dir, "*.toml"))
			ic := criContext(t, r, "use_local_image_pull = true\n[registry.mirrors.\"docker.io\"]\nendpoint = [\"https://m.io\"]\n")
			var pull introspection.Service
			_, err := keepCRIOnRoutes(ic, func(inner *plugin.InitContext) (any, error) {
				left, err := localpull.Read(inner.Config)
				if err != nil || !left.UseLocalImagePull || len(left.Registry.Mirrors) != 1 || inner.Meta != ic.Meta {
					t.Errorf("got CRI started with %+v, %v, want its settings as they were", left, err)
				}
				if got, want := len(inner.GetAll()), len(ic.GetAll()); got != want {
					t.Errorf("got %d plugins, want all %d", got, want)
				}
				instance, err := inner.GetByID(plugins.ServicePlugin, services.IntrospectionService)
				pull, _ = instance.(introspection.Service)
				return "CRI", err
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pull.Plugins(t.Context()); err != nil || r.status(t.Context()).CriRefused {
				t.Errorf("got %v, refused %t without rules, want a pull", err, r.status(t.Context()).CriRefused)
			}
			writeFile(t, filepath.Join(dir, "berth.toml"), tt.rules)
			if _, err := pull.Plugins(t.Context()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v with rules, want %q", err, tt.want)
			}
			if s := r.status(t.Context()); !s.CriRefused || logged.Len() == 0 {
				t.Errorf("got status %v, log %q, want that pulls of CRI are refused", s, logged)
			}
		})
	}
}

// A containerd whose CRI cannot be gated does not start CRI that goes its own way.
func TestCRIWithoutGate(t *testing.T) {
	r, _, _ := newResolver(t, filepath.Join(t.TempDir(), "*.toml"))
	ic := criContext(t, r, "[registry.mirrors.\"docker.io\"]\nendpoint = [\"https://m.io\"]\n")
	set := plugin.NewPluginSet()
	if err := set.Add(ic.Plugins().Get(ResolverPlugin, ResolverID)); err != nil {
		t.Fatal(err)
	}
	bare := plugin.NewContext(t.Context(), set, nil)
	bare.Config = ic.Config
	if left, err := initCRI(t, bare); err == nil || left != nil {
		t.Errorf("got CRI started with %+v, %v, want it refused", left, err)
	}
}

func TestCRIWithResolverDisabled(t *testing.T) {
	left, err := initCRI(t, criContext(t, nil, "use_local_image_pull = true\n"))
	if err != nil || !left.UseLocalImagePull {
		t.Errorf("got CRI started with %+v, %v, want its settings as they were", left, err)
	}
}
