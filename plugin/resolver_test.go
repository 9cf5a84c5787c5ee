// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/berth-edge/berth/plugin/api"
	"github.com/berth-edge/berth/resolver/strict"
)

// newResolver returns a resolver whose config_path is path, and a context whose log is the buffer.
func newResolver(t *testing.T, path string) (*Resolver, context.Context, *bytes.Buffer) {
	t.Helper()
	logged := &bytes.Buffer{}
	logger := logrus.New()
	logger.Out = logged
	ctx := log.WithLogger(t.Context(), logrus.NewEntry(logger))
	r := NewResolver(strict.Stanza{Name: "STANZA", Values: map[string]any{"config_path": []any{path}}})
	r.Load(ctx)
	return r, ctx, logged
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// gauge is the value of berth_configured.
func gauge(t *testing.T, r *Resolver) float64 {
	t.Helper()
	return metrics(t, r)["berth_configured"]
}

// metrics are the values of r's metrics by name, with the values of their labels behind it.
func metrics(t *testing.T, r *Resolver) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(r)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

const goodRules = "[[registries]]\ndomain = \"r.io/p\"\n[[rules]]\nfrom = \"quay.io\"\nto = [\"r.io/p/q\"]\n"

// SEC-35: a configuration that cannot be used at start refuses every pull with the reason, until it is mended; no restart
// is needed, and what holds is said in the log, in the metric and in the status.
func TestBadConfigurationRefusesUntilItIsMended(t *testing.T) {
	file := filepath.Join(t.TempDir(), "berth.toml")
	for _, tt := range []struct{ name, text, problem string }{
		{"absent", "", file + ": no such file; pulls are refused until it appears"},
		{"syntax", "[[rules]\n", file + ":1: TOML syntax: "},
		{"mistake", "[[rules]]\nfrom = \"quay.io\"\n", file + ":1: rules[0].to: is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_ = os.Remove(file)
			if tt.text != "" {
				writeFile(t, file, tt.text)
			}
			r, ctx, logged := newResolver(t, file)
			routes, err := r.Routes(ctx)
			if routes != nil || err == nil || !strings.HasPrefix(err.Error(), tt.problem) {
				t.Fatalf("got %v, %v, want %s", routes, err, tt.problem)
			}
			s := r.status(t.Context())
			if s.State != api.ResolverStatus_REFUSING || len(s.Problems) != 1 || !strings.HasPrefix(s.Problems[0], tt.problem) {
				t.Errorf("got status %v, want refusing", s)
			}
			if got := gauge(t, r); got != -1 {
				t.Errorf("got berth_configured %v, want -1", got)
			}
			if !strings.Contains(logged.String(), "level=error") || !strings.Contains(logged.String(), "pulls are refused until it is mended") {
				t.Errorf("got log %q, want an error", logged)
			}
			since := r.State().Since
			if _, err := r.Routes(ctx); err == nil || !r.State().Since.Equal(since) || strings.Count(logged.String(), "\n") != 1 {
				t.Errorf("asked again: got %v since %s, want the same since %s; log %q", err, r.State().Since, since, logged)
			}

			writeFile(t, file, goodRules)
			routes, err = r.Routes(ctx)
			if err != nil || routes.Route(t.Context(), "quay.io/a:1").Rule != "quay.io" {
				t.Fatalf("mended: got %v, %v, want routes", routes, err)
			}
			if !strings.Contains(logged.String(), "pulls go along the rules") {
				t.Errorf("mended: got log %q, want a line that says so", logged)
			}
			wantConfigured(t, r, file)
		})
	}
}

func wantConfigured(t *testing.T, r *Resolver, file string) {
	t.Helper()
	s := r.status(t.Context())
	if s.State != api.ResolverStatus_CONFIGURED || s.Rules != 2 || !slices.Equal(s.Registries, []string{"r.io/p"}) || !slices.Equal(s.Files, []string{file}) ||
		len(s.Problems) > 0 || len(s.Warnings) > 0 || len(s.Cri) > 0 || s.CriRefused {
		t.Errorf("got status %v, want one rule and the implied one, one registry, one file", s)
	}
	if age := time.Since(s.Since.AsTime()); age < 0 || age > time.Minute {
		t.Errorf("got since %s, want now", s.Since.AsTime())
	}
	if got := gauge(t, r); got != 1 {
		t.Errorf("got berth_configured %v, want 1", got)
	}
}

// Without any file pulls are stock's, visibly; the first file that a glob matches is in force at the next pull.
func TestUnconfiguredUntilAFileAppears(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "berth")
	r, ctx, logged := newResolver(t, filepath.Join(dir, "*.toml"))
	routes, err := r.Routes(ctx)
	if err != nil || routes.Config().Configured() {
		t.Fatalf("got %v, %v, want no rules", routes, err)
	}
	if s := r.status(t.Context()); s.State != api.ResolverStatus_UNCONFIGURED || s.Rules != 0 || len(s.Files) > 0 || gauge(t, r) != 0 {
		t.Errorf("got status %v and berth_configured %v, want none", s, gauge(t, r))
	}
	if !strings.Contains(logged.String(), "level=warning") || !strings.Contains(logged.String(), "has no rules") {
		t.Errorf("got log %q, want a warning", logged)
	}

	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "berth.toml")
	writeFile(t, file, "")
	if routes, err := r.Routes(ctx); err != nil || routes.Config().Configured() || strings.Count(logged.String(), "\n") != 1 {
		t.Errorf("an empty file: got %v, %v, log %q, want no change", routes, err, logged)
	}
	if want := []string{file + " is empty: nothing is configured by it"}; !slices.Equal(r.status(t.Context()).Warnings, want) {
		t.Errorf("an empty file: got warnings %q, want %q", r.status(t.Context()).Warnings, want)
	}
	writeFile(t, file, goodRules)
	if routes, err := r.Routes(ctx); err != nil || !routes.Config().Configured() {
		t.Fatalf("got %v, %v, want rules", routes, err)
	}
	wantConfigured(t, r, file)
}

// H6: a node starts while its files are being written. What is there may be valid, and without the rules that are to come pulls
// would go to public registries: they are refused until the file is closed, written to or not.
func TestStartWhileAFileIsWritten(t *testing.T) {
	for _, rest := range []string{goodRules, ""} {
		dir := t.TempDir()
		file := filepath.Join(dir, "berth.toml")
		f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if rest == "" {
			writeFile(t, file, goodRules)
		} else if _, err := f.WriteString("# the rules of this node\n"); err != nil {
			t.Fatal(err)
		}
		r, ctx, _ := newResolver(t, dir+"/*.toml")
		for range 2 {
			if routes, err := r.Routes(ctx); fmt.Sprint(err) != file+": is still being written; it is read again once it is closed" {
				t.Errorf("got %v, %v, want pulls refused", routes, err)
			}
		}
		if _, err := f.WriteString(rest); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if routes, err := r.Routes(ctx); err != nil || !routes.Config().Configured() {
			t.Fatalf("got %v, %v, want rules", routes, err)
		}
		wantConfigured(t, r, file)
		// What is opened later, and left as it is, is as good as it was.
		f, err = os.OpenFile(file, os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		writeFile(t, dir+"/more.toml", "[[rules]]\nfrom = \"ghcr.io\"\nto = [\"r.io/p\"]\n")
		if routes, err := r.Routes(ctx); err != nil || len(routes.Config().Rules) != 2 || len(r.status(t.Context()).Refused) > 0 {
			t.Errorf("got %v, %v, refused %q, want one more rule", routes, err, r.status(t.Context()).Refused)
		}
	}
}

// A broken file that appears refuses pulls: an operator has begun to configure.
func TestUnconfiguredUntilABrokenFileAppears(t *testing.T) {
	dir := t.TempDir()
	r, ctx, _ := newResolver(t, filepath.Join(dir, "*.toml"))
	writeFile(t, filepath.Join(dir, "berth.toml"), "[[rules]\n")
	if routes, err := r.Routes(ctx); err == nil {
		t.Errorf("got %v, want pulls refused", routes)
	}
}

// Many pulls that find no configuration look for it once.
func TestRoutesConcurrently(t *testing.T) {
	file := filepath.Join(t.TempDir(), "berth.toml")
	r, ctx, logged := newResolver(t, file)
	writeFile(t, file, goodRules)
	var pulls sync.WaitGroup
	for range 50 {
		pulls.Go(func() {
			if routes, err := r.Routes(ctx); err != nil || !routes.Config().Configured() {
				t.Errorf("got %v, %v, want rules", routes, err)
			}
			r.State()
			r.status(t.Context())
		})
	}
	pulls.Wait()
	if got := strings.Count(logged.String(), "pulls go along the rules"); got != 1 {
		t.Errorf("got %d lines that rules are in force, want 1:\n%s", got, logged)
	}
}

// A drop-in that is not read, a section with a misspelt name, and rules that those of a later file replace, are said at start.
func TestWarnNotImported(t *testing.T) {
	dir := t.TempDir()
	main := filepath.Join(dir, "config.toml")
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	rules := "[[plugins.\"" + ResolverURI + "\".rules]]\n"
	writeFile(t, main, "version = 3\nimports = [\"late.toml\"]\n[plugins.\"io.containerd.resolver.v1.external_registry\"]\n"+rules)
	writeFile(t, filepath.Join(dir, "late.toml"), rules)
	writeFile(t, filepath.Join(dir, "conf.d", "berth.toml"), "required_plugins = [\""+ResolverURI+"\"]\n")
	_, ctx, logged := newResolver(t, filepath.Join(dir, "*.none"))
	logged.Reset()
	WarnNotImported(ctx, main)
	for _, want := range []string{"conf.d/berth.toml is not read", "add imports = [", "config.toml:3: plugins.", "is not a plugin; did you mean", "config.toml:4: plugins.", "late.toml has rules too"} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("got log %q, want %q", logged, want)
		}
	}
}
