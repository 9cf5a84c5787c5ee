// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// C11: a token server that does not answer, or not to the end, is given up after the time of a stall.
func TestSilentTokenServer(t *testing.T) {
	t.Parallel()
	for _, begun := range []string{"", `{"token":"`} {
		t.Run("begun "+begun, func(t *testing.T) {
			t.Parallel()
			g := guard(t, login(), func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if begun != "" {
						io.WriteString(w, begun)
						_ = http.NewResponseController(w).Flush()
					}
					<-r.Context().Done()
				})
			})
			opts := trusting(g.authority)
			opts.StallTimeout = time.Second
			e := newEndpoint(t, g.server.Host, login(), opts)
			wantError(t, pull(t.Context(), e, "app", g.image), "fetch token from "+g.realm.Host+": timed out: no answer in 1s")
		})
	}
}

// C11: a token server that is slow has all of its time for each pull, also for one that waited first to see whether the password is
// right; one that says nothing is what each of them says.
func TestSlowTokenServerAndManyPulls(t *testing.T) {
	t.Parallel()
	const limit = 2 * time.Second
	for _, tt := range []struct {
		name string
		took time.Duration
		want string
	}{{"slow", limit * 6 / 10, ""}, {"silent", time.Hour, "fetch token from 127.0.0.1"}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := guard(t, login(), func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					select {
					case <-time.After(tt.took):
						next.ServeHTTP(w, r)
					case <-r.Context().Done():
					}
				})
			})
			opts := trusting(g.authority)
			opts.StallTimeout = limit
			e := newEndpoint(t, g.server.Host, login(), opts)
			var pulls sync.WaitGroup
			for i := range 4 {
				pulls.Go(func() {
					err := pull(t.Context(), e, fmt.Sprintf("app%d", i), g.image)
					if tt.want != "" {
						wantError(t, err, tt.want, "no answer in 2s")
					} else if err != nil {
						t.Error(err)
					}
				})
			}
			pulls.Wait()
		})
	}
}

// C11, R10: a token server that goes silent is asked once by a pull, also where it was guessed that a token is wanted, or known from
// before; a repository that is open is pulled.
func TestTokenServerGoesSilent(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("silent later", 1<<10)
	authority := registrytest.NewAuthority(t)
	for _, name := range []string{"app", "other", "open"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var hangs atomic.Bool
			tokens := registrytest.NewTokens(user, password)
			tokens.Life = 1
			server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if hangs.Load() {
					<-r.Context().Done()
					return
				}
				tokens.ServeHTTP(w, r)
			}))
			tokens.Realm = server.URL + "/token"
			whole := registrytest.Registry{Image: image}
			registry := registrytest.Serve(t, authority.Server(t), only("/v2/open/", whole.ServeHTTP, tokens.Protect(whole)))
			opts := trusting(authority)
			opts.StallTimeout = time.Second
			e := newEndpoint(t, registry.Host, login(), opts)
			if err := pull(t.Context(), e, "app", image); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // in which the token expires
			hangs.Store(true)
			before := len(server.Requests())
			if err := pull(t.Context(), e, name, image); name == "open" && err != nil {
				t.Errorf("got %v of a repository that is open", err)
			} else if name != "open" {
				wantError(t, err, "no answer in 1s")
			}
			if got := len(server.Requests()) - before; got != 1 {
				t.Errorf("got %d requests for a token, want 1", got)
			}
		})
	}
}
