// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// mirrorOf returns a mirror with the registries and rules of text.
func mirrorOf(t *testing.T, text string) *Mirror {
	t.Helper()
	path := filepath.Join(t.TempDir(), "berth.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := resolver.NewRoutes(loaded.Config)
	if err != nil {
		t.Fatal(err)
	}
	return New(routes, ocispec.Platform{OS: "linux", Architecture: "amd64"})
}

// TestCheckRequests counts what a check asks a registry for: one request to learn that it wants tokens, then for each repository
// a token, a manifest and a configuration.
func TestCheckRequests(t *testing.T) {
	const images = 40
	image := registrytest.NewImage("check", 100)
	authority := registrytest.NewAuthority(t)
	tokens := registrytest.NewTokens("ann", "s3cret")
	guarded := tokens.Protect(registrytest.Registry{Image: image})
	server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			tokens.ServeHTTP(w, r)
			return
		case r.Header.Get("Authorization") == "":
			time.Sleep(20 * time.Millisecond) // those that do not wait for the answer are here by then
		}
		guarded.ServeHTTP(w, r)
	}))
	tokens.Realm = server.URL + "/token"
	m := mirrorOf(t, fmt.Sprintf("[[registries]]\ndomain = %q\nusername = \"ann\"\npassword = \"s3cret\"\ncertificates = [%q]\n", server.Host, authority.PEM))
	var refs []string
	for i := range images {
		refs = append(refs, fmt.Sprintf("quay.io/team/app%d:1", i))
	}
	for i, found := range m.Check(t.Context(), refs) {
		if found.Target == nil || found.Digest != image.Digest() {
			t.Errorf("%s: got %s, %v, want %s", refs[i], found.Digest, found.Failures, image.Digest())
		}
	}
	refused := 0
	for _, r := range server.Requests() {
		if r.Header.Get("Authorization") == "" {
			refused++
		}
	}
	if got, want := len(server.Requests()), 3*images+1; got != want || refused != 1 {
		t.Errorf("got %d requests, %d of them without a token, want %d and 1:\n%q", got, refused, want, server.Lines(""))
	}
}

// TestContact has those who come later wait for the first, however that ends, or until they are given up.
func TestContact(t *testing.T) {
	c := newContact()
	end, err := c.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	given, giveUp := context.WithCancel(t.Context())
	giveUp()
	if _, err := c.begin(given); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v while the first is under way, want that it was given up", err)
	}
	begun := make(chan error)
	for range 3 {
		go func() {
			end, err := c.begin(t.Context())
			if err == nil {
				end()
			}
			begun <- err
		}()
	}
	select {
	case <-begun:
		t.Error("got a second request while the first is under way")
	case <-time.After(20 * time.Millisecond):
	}
	end()
	for range 3 {
		if err := <-begun; err != nil {
			t.Error(err)
		}
	}
}
