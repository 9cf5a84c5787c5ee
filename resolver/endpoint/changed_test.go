// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// After an operator changed a password, the next pull uses neither it nor a token that was made of it. A pull that runs ends as
// it began: the new password may be one that is wrong.
func TestPasswordFileChanges(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("changed", 1<<10)
	authority := registrytest.NewAuthority(t)
	tokens := registrytest.NewTokens(user, password)
	realm := registrytest.Serve(t, authority.Server(t), tokens)
	tokens.Realm = realm.URL
	registry := registrytest.Registry{Image: image}
	for name, handler := range map[string]http.Handler{"bearer": tokens.Protect(registry), "basic": registrytest.Basic(user, password, registry)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := registrytest.Serve(t, authority.Server(t), handler)
			path := filepath.Join(t.TempDir(), "password")
			set := func(text string) {
				t.Helper()
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			set(password)
			e := newEndpoint(t, server.Host, credential.Source{Username: user, PasswordFile: path}.Keychain(), trusting(authority))
			running := docker.NewResolver(docker.ResolverOptions{Hosts: e.Hosts(nil)})
			_, desc, err := running.Resolve(t.Context(), server.Host+"/app:1")
			if err != nil {
				t.Fatal(err)
			}
			set("canary-other")
			fetcher, err := running.Fetcher(t.Context(), server.Host+"/app:1")
			if err == nil {
				err = fetch(t.Context(), fetcher, desc)
			}
			if err != nil {
				t.Errorf("got %v of a pull that runs, want it to end as it began", err)
			}
			wantError(t, pull(t.Context(), e, "app", image), "unauthorized")
			set(password)
			if err := pull(t.Context(), e, "app", image); err != nil {
				t.Errorf("got %v with the right password again", err)
			}
		})
	}
}
