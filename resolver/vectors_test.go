// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
)

// routesOf compiles a configuration written as TOML.
func routesOf(t testing.TB, text string) *resolver.Routes {
	t.Helper()
	path := filepath.Join(t.TempDir(), "berth.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.LoadFile(path)
	if err != nil {
		t.Fatalf("load:\n%v", err)
	}
	routes, err := resolver.NewRoutes(loaded.Config)
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

func pulls(r resolver.Route) []string {
	var refs []string
	for _, target := range r.Targets {
		refs = append(refs, target.Pull.String())
	}
	return refs
}

// The vectors are a contract: a changed path scheme breaks every node in the field.
func TestRewriteVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/rewrite.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name, Config, Ref, Error string
		Pull                     []string
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 21 {
		t.Fatalf("got %d vectors, want 21 or more", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			route := routesOf(t, v.Config).Route(t.Context(), v.Ref)
			if v.Error != "" {
				if route.Err == nil || !strings.Contains(route.Err.Error(), v.Error) {
					t.Fatalf("got error %v, want one with %q", route.Err, v.Error)
				}
				return
			}
			if route.Err != nil {
				t.Fatal(route.Err)
			}
			if got := pulls(route); !slices.Equal(got, v.Pull) {
				t.Errorf("got %q, want %q", got, v.Pull)
			}
		})
	}
}
