// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/config"
)

// C18: a file of another kind is told by its content, and what to do with it is said.
func TestOtherKinds(t *testing.T) {
	const k3s = "mirrors:\n  docker.io:\n    endpoint: [https://r.io]\n"
	const cloud = "#cloud-config\nstylus:\n  registryCredentials: {domain: r.io}\n"
	for _, tt := range []struct{ name, file, text, want string }{
		{"k3s", "registries.yaml", k3s, "this is a k3s registries.yaml; run `berth config convert FILE`, and use what it prints"},
		{"k3s, .yml", "registries.yml", k3s, "this is a k3s registries.yaml; run `berth config convert FILE`"},
		{"k3s, configs alone", "registries.yaml", "configs: {}\n", "this is a k3s registries.yaml; run"},
		{"k3s as JSON", "registries.yaml", `{"mirrors": {}}`, "this is a k3s registries.yaml; run"},
		{"k3s given as TOML", "registries.toml", k3s, "this is a k3s registries.yaml and not TOML; run `berth config convert FILE`"},
		{"k3s as JSON given as TOML", "registries.toml", `{"mirrors": {}}`, "this is a k3s registries.yaml and not TOML; run"},
		{"a cloud-config given as TOML", "user-data", cloud, "this is a cloud-config and not TOML; give it a name that ends in .yaml, or run `berth config convert FILE`"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.file, tt.text)
			_, err := config.LoadFile(path)
			if got, want := fmt.Sprint(err), path+": "+strings.ReplaceAll(tt.want, "FILE", path); !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// A cloud-config and files of TOML are one configuration, and a mistake in one names the other, with the key as it is
// written there.
func TestPlacesOfBothKinds(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "stylus:\n  registryCredentials:\n    domain: r.io\n",
		"b.toml": "[[rules]]\nfrom = \"quay.io\"\nto = [\"r.io/q\"]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	paths := []string{filepath.Join(dir, "*.yaml"), filepath.Join(dir, "*.toml")}
	loaded, err := config.Load(stanza(nil, paths...))
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	for _, r := range loaded.Rules {
		rules = append(rules, r.From+" "+strings.Join(r.To, " "))
	}
	if want := []string{"* r.io", "quay.io r.io/q"}; len(loaded.Registries) != 1 || !slices.Equal(rules, want) {
		t.Errorf("got %d registries and rules %q, want 1 and %q", len(loaded.Registries), rules, want)
	}
	values := map[string]any{"registries": []any{map[string]any{"domain": "r.io"}}, "rules": []any{map[string]any{"from": "*", "deny": true}}}
	_, err = config.Load(stanza(values, paths[0]))
	want := []string{
		dir + `/a.yaml:2: stylus.registryCredentials: "*" is already defined at STANZA`,
		dir + `/a.yaml:3: stylus.registryCredentials.domain: "r.io" is already defined at STANZA`,
	}
	if got := lines(err, ""); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
