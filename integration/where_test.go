// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// origin is what `berth where --output json` prints of one image.
type origin struct {
	Ref, Name, Digest, From, Source, Rule, Bundle, Error string
	PulledAs                                             string `json:"pulled_as"`
	PulledAt                                             string `json:"pulled_at"`
	LoadedAt                                             string `json:"loaded_at"`
}

func where(t *testing.T, d *daemon.Daemon, args ...string) (origins []origin, code int) {
	t.Helper()
	out, problems, code := berth(t, append([]string{"where", "--address", d.Address, "--output", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &origins); err != nil || problems != "" {
		t.Fatalf("where %q: got %q %q %v, want an array", args, out, problems, err)
	}
	wantSchema(t, "where", out)
	return origins, code
}

// wantSchema validates what a command printed as JSON.
func wantSchema(t testing.TB, name, out string) {
	t.Helper()
	schema, err := jsonschema.Compile("../docs/schema/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal([]byte(out), &value); err != nil {
		t.Fatalf("%s: got %q, %v, want JSON", name, out, err)
	}
	if err := schema.Validate(value); err != nil {
		t.Errorf("%s: got\n%s\nwhich is not as documented: %#v", name, out, err)
	}
}

// TestJSONOfANode holds what commands print of a real node to their schemas: with bundles that are loaded, that are there, and that
// are broken, with a change of the rules that is refused, and the routes of images in bundles.
func TestJSONOfANode(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	l := newLoading(t, entry(t, r, "edge"), daemon.Options{CRI: true})
	good := l.bundle(t, "a.tar", oneLayer(610, "registry.k8s.io/a:1"))
	l.put(t, "bad.tar", []byte("nothing"))
	l.start(t)
	report := func(code int, schema string, args ...string) string {
		t.Helper()
		out, problems, got := berth(t, append(args, "--output", "json")...)
		if got != code || problems != "" {
			t.Errorf("berth %q: got exit status %d and %q, want %d and no error", args, got, problems, code)
		}
		wantSchema(t, schema, out)
		return out
	}
	report(1, "status", "status", "--address", l.Address)
	report(1, "status", "status", "--address", l.Address, "--verify")
	report(0, "load", "load", "--address", l.Address, good)
	report(1, "load", "load", "--address", l.Address, l.folder)
	report(0, "explain", "explain", "--config", l.ConfigFile(), "registry.k8s.io/a:1", "nginx")
	report(0, "check", "config", "check", "--config", l.ConfigFile())
	l.configure(t, "bad.toml", "[[registries]]\ndomain = \"\"\n")
	within(t, 10*time.Second, "the change to be refused", func() bool {
		out, _, _ := berth(t, "status", "--address", l.Address)
		return strings.Contains(out, "a change is refused")
	})
	if out := report(1, "status", "status", "--address", l.Address); !strings.Contains(out, "bad.toml:2: ") {
		t.Errorf("got status %s, want the mistake in it", out)
	}
	report(1, "check", "config", "check", "--config", l.ConfigFile())
}

// TestWhere asks where images came from that were pulled from a registry and from a bundle, loaded, and pulled past Berth, after a
// restart too.
func TestWhere(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	pulled, past := image.Small("linux/amd64", 600), image.Small("linux/amd64", 601)
	pulled.Push(t, r, "edge/team/app:1")
	past.Push(t, r, "edge/past:1")
	l := newLoading(t, entry(t, r, "edge")+rule("quay.io", r.Host()+"/edge"), daemon.Options{CRI: true})
	loaded := oneLayer(602, "registry.k8s.io/loaded:1")
	bundle := l.bundle(t, "a.tar", loaded)
	begun := time.Now().Add(-time.Second)
	l.start(t)
	started := time.Now().Add(-time.Second)
	if err := pullCRI(t, l.Daemon, "quay.io/team/app:1"); err != nil {
		t.Fatal(err)
	}
	pastRef := r.Host() + "/edge/past:1"
	l.Ctr(t, "-n", "k8s.io", "images", "pull", "--local", "--skip-verify", pastRef)
	l.Ctr(t, "images", "pull", "registry.k8s.io/loaded:1") // into the namespace default, from the bundle

	fromRegistry := origin{
		Ref: "quay.io/team/app:1", Name: "quay.io/team/app:1", Digest: pulled.Digest.String(), From: "registry",
		Source: r.Host() + "/edge", PulledAs: r.Host() + "/edge/team/app:1", Rule: "quay.io",
	}
	check := func(name string, got, want origin) {
		t.Helper()
		if want.PulledAs != "" {
			at, err := time.Parse(time.RFC3339, got.PulledAt)
			if err != nil || at.Before(started) || at.After(time.Now()) {
				t.Errorf("%s: got pulled at %q, want the time of the pull", name, got.PulledAt)
			}
			got.PulledAt = ""
		}
		if strings.HasPrefix(got.Bundle, "/") && want.Source == "" {
			if at, err := time.Parse(time.RFC3339, got.LoadedAt); err != nil || at.Before(begun) || at.After(time.Now()) {
				t.Errorf("%s: got loaded at %q, want the time of the load", name, got.LoadedAt)
			}
			got.LoadedAt = ""
		}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	for _, when := range []string{"at once", "after a restart"} {
		all, code := where(t, l.Daemon, "--all")
		if code != 0 {
			t.Errorf("%s: got exit status %d, want 0", when, code)
		}
		got := map[string]origin{}
		for _, o := range all {
			got[o.Name] = o
		}
		want := []origin{
			fromRegistry,
			{Name: pastRef, Digest: past.Digest.String(), From: "unknown"},
			{Name: "registry.k8s.io/loaded:1", Digest: loaded.Digest.String(), From: "bundle", Bundle: bundle},
		}
		if len(all) != len(want) {
			t.Errorf("%s: got %+v, want %d images", when, all, len(want))
		}
		for _, o := range want {
			o.Ref = o.Name
			check(when+" "+o.Name, got[o.Name], o)
		}
		inDefault, _ := where(t, l.Daemon, "--namespace", "default", "registry.k8s.io/loaded:1")
		check(when+" in default", inDefault[0], origin{
			Ref: "registry.k8s.io/loaded:1", Name: "registry.k8s.io/loaded:1", Digest: loaded.Digest.String(), From: "bundle",
			Source: bundle, PulledAs: "registry.k8s.io/loaded:1", Rule: "*",
		})
		if when == "at once" {
			l.restart(t)
		}
	}

	// By what CRI records besides: the digest, the id, and without the tag that CRI drops.
	for _, ref := range []string{
		"quay.io/team/app@" + pulled.Digest.String(), "quay.io/team/app:other@" + pulled.Digest.String(), pulled.ConfigDigest.String(),
	} {
		got, code := where(t, l.Daemon, ref)
		want := fromRegistry
		want.Ref = ref
		check(ref, got[0], want)
		if code != 0 {
			t.Errorf("%s: got exit status %d, want 0", ref, code)
		}
	}
	out, _, code := berth(t, "where", "--address", l.Address, "quay.io/absent:1", "quay.io/team/app:1")
	if want := fmt.Sprintf("quay.io/absent:1\n  error: is not there in namespace k8s.io\n  hint: ctr keeps its images in namespace default; see --namespace\nquay.io/team/app:1\n  digest %s\n  pulled from registry %s as %s\n  at ",
		pulled.Digest, fromRegistry.Source, fromRegistry.PulledAs); code != 1 || !strings.HasPrefix(out, want) || !strings.HasSuffix(out, "Z\n  rule \"quay.io\"\n") {
		t.Errorf("got exit status %d and\n%s\nwant 1 and\n%s", code, out, want)
	}
}

// TestLoadedAt asks when an image was loaded: that time stays while it is the bundle's, and is another when the bundle is replaced.
func TestLoadedAt(t *testing.T) {
	daemon.RequireRoot(t)
	const ref, long = "registry.k8s.io/a:1", "2020-01-01T00:00:00Z"
	l := newLoading(t, "", daemon.Options{CRI: true})
	a, b := oneLayer(620, ref), oneLayer(621, ref)
	l.bundle(t, "a.tar", a)
	begun := time.Now().Add(-time.Second)
	l.start(t)
	names := func(of image.Named) []string {
		return []string{ref, "registry.k8s.io/a@" + of.Digest.String(), of.ConfigDigest.String()}
	}
	for _, name := range names(a) {
		l.Ctr(t, "-n", "k8s.io", "images", "label", name, "io.berth.loaded-at="+long)
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"nothing changed", func() {}},
		{"it was unpinned", func() { l.Ctr(t, "-n", "k8s.io", "images", "label", ref, pinLabel+"=") }},
		{"CRI pulled it from the bundle", func() {
			if err := pullCRI(t, l.Daemon, ref); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		step.do()
		l.restart(t)
		l.waitPinned(t, ref, true)
		for _, name := range names(a) {
			if got, _ := where(t, l.Daemon, name); got[0].LoadedAt != long {
				t.Errorf("%s: %s: got loaded at %q, want as before", step.name, name, got[0].LoadedAt)
			}
		}
	}
	l.bundle(t, "a.tar", b)
	l.restart(t)
	for _, name := range names(b) {
		got, _ := where(t, l.Daemon, name)
		if at, err := time.Parse(time.RFC3339, got[0].LoadedAt); err != nil || at.Before(begun) || at.After(time.Now()) || got[0].Digest != b.Digest.String() ||
			got[0].Source+got[0].PulledAs+got[0].Rule+got[0].PulledAt != "" {
			t.Errorf("%s: got %+v, want the image that replaced the other, and when, and nothing of how that was pulled", name, got[0])
		}
	}
	for _, name := range names(a)[1:] {
		if i, err := l.get(t, name); err != nil || i.Labels["io.berth.loaded-at"] != "" {
			t.Errorf("%s: got labels %v %v of an image that no bundle holds, want no time", name, i.Labels, err)
		}
	}
}
