// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// counted returns the values of our counters by name and labels, and how often each histogram observed.
func counted(t testing.TB) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(resolver.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetName() + "=" + label.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// Every attempt is counted, with where it went and how it ended; so is what was read. A fallback is a line of its own.
func TestPullsAreCounted(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("count", 4<<10)
	missing, whole := serve(t, http.NotFoundHandler()), serve(t, registrytest.Registry{Image: content})
	n := newNode(t, missing.registry()+whole.registry()+"name = \"the whole one\"\n"+from(missing, whole))
	ctx, logged := traced(t)
	before := counted(t) // a server of another test may have had the port
	if err := n.pull(ctx, ref); err != nil {
		t.Fatal(err)
	}
	got := counted(t)
	size := float64(len(content.Manifest) + len(content.Config) + len(content.Layer))
	for metric, want := range map[string]float64{
		"berth_pulls_total kind=registry outcome=not_found registry=" + missing.Host: 1,
		"berth_pulls_total kind=registry outcome=ok registry=" + whole.Host:          1,
		"berth_pull_fallbacks_total cause=not_found registry=" + missing.Host:        1,
		"berth_pull_bytes_total kind=registry registry=" + missing.Host:              0,
		"berth_pull_bytes_total kind=registry registry=" + whole.Host:                size,
		"berth_pull_seconds kind=registry registry=" + missing.Host:                  1,
		"berth_pull_seconds kind=registry registry=" + whole.Host:                    1,
	} {
		if n := got[metric] - before[metric]; n != want {
			t.Errorf("got %s %v, want %v", metric, n, want)
		}
	}
	if want := `registry-name="the whole one"`; strings.Count(logged.String(), want) != 1 {
		t.Errorf("got the log\n%s\nwant %s once", logged, want)
	}
	var warned string
	for line := range strings.Lines(logged.String()) {
		if strings.Contains(line, "level=warning") && strings.Contains(line, "trying the next") {
			warned += line
		}
	}
	for _, want := range []string{"cause=\"not found\"", `ref="` + ref + `"`, `pulled-as="` + missing.Host + `/mirror/org/app:1"`, "rule=quay.io"} {
		if strings.Count(warned, want) != 1 {
			t.Errorf("got warnings %q, want one with %s", warned, want)
		}
	}
}

// A pull by a client or into a snapshotter that would go past the rules is counted as denied.
func TestDeniedPullsAreCounted(t *testing.T) {
	n := newNode(t, "[[rules]]\nfrom = \"*\"\nto = [\"r.test/p\"]\n")
	n.IsLazy = func(string) bool { return true }
	client, err := registry.NewOCIRegistry(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	ctx := namespaces.WithNamespace(t.Context(), "test")
	for name, source := range map[string]any{"a source that is no registry": struct{ *registry.OCIRegistry }{client}, "a lazy snapshotter": client} {
		const metric = "berth_pulls_refused_total cause=denied"
		before := counted(t)
		if err := n.Transfer(ctx, source, image.NewStore(ref, image.WithUnpack(platforms.DefaultSpec(), "lazy"))); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if got := counted(t)[metric] - before[metric]; got != 1 {
			t.Errorf("%s: got %v counted as %s, want 1", name, got, metric)
		}
	}
}

// Registries that are not configured share a label: their names come from whoever pulls. So do refusals have a cause.
func TestUnconfiguredPullsAreCounted(t *testing.T) {
	plain := registrytest.Serve(t, nil, registrytest.Registry{Image: registrytest.NewImage("count", 1<<10)})
	ctx := t.Context()
	for _, tt := range []struct {
		name, config, ref string
		broken            error
		want              []string // what counts one more
	}{
		{"nothing configured", "", plain.Host + "/org/app:1", nil, []string{"berth_pulls_total kind=source outcome=ok registry=source", "berth_pull_seconds kind=source registry=source"}},
		{"source", "[[rules]]\nfrom = \"*\"\nto = [\"source\"]\n", plain.Host + "/org/app:1", nil, []string{"berth_pulls_total kind=source outcome=ok registry=source", "berth_pull_seconds kind=source registry=source"}},
		{"rewritten", fmt.Sprintf("[[rules]]\nfrom = \"quay.io\"\nto = [%q]\n", plain.Host+"/m"), ref, nil, []string{"berth_pulls_total kind=registry outcome=ok registry=unconfigured", "berth_pull_seconds kind=registry registry=unconfigured"}},
		{"denied", "[[rules]]\nfrom = \"quay.io\"\ndeny = true\n", ref, nil, []string{"berth_pulls_refused_total cause=denied"}},
		{"unusable", "", ref, errors.New("a mistake"), []string{"berth_pulls_refused_total cause=configuration"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, tt.config)
			if tt.broken != nil {
				n.Routes = func(context.Context) (*resolver.Routes, error) { return nil, tt.broken }
			}
			before := counted(t)
			_ = n.pull(ctx, tt.ref)
			after := counted(t)
			maps.DeleteFunc(after, func(name string, value float64) bool {
				return value == before[name] || strings.HasPrefix(name, "berth_pull_bytes_total")
			})
			for _, metric := range tt.want {
				if after[metric] != before[metric]+1 {
					t.Errorf("got %s %v, want %v", metric, after[metric], before[metric]+1)
				}
			}
			if len(after) != len(tt.want) {
				t.Errorf("got %v counted, want %q", after, tt.want)
			}
		})
	}
}
