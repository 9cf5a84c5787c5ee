// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// C13: a wrong password is sent once in five seconds, however many pulls there are, and a changed one at once.
func TestWrongPasswordInAStorm(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("storm", 1<<10)
	authority := registrytest.NewAuthority(t)
	tokens := registrytest.NewTokens(user, "canary-right")
	realm := registrytest.Serve(t, authority.Server(t), tokens)
	tokens.Realm = realm.URL + "/token"
	registry := registrytest.Registry{Image: image}
	for _, tt := range []struct {
		name    string
		handler http.Handler
		at      func(*registrytest.Server) *registrytest.Server // where the password is sent
	}{
		{"basic", registrytest.Basic(user, "canary-right", registry), func(s *registrytest.Server) *registrytest.Server { return s }},
		{"bearer", tokens.Protect(registry), func(*registrytest.Server) *registrytest.Server { return realm }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := registrytest.Serve(t, authority.Server(t), tt.handler)
			k := &rotating{}
			k.set("canary-wrong")
			e := newEndpoint(t, server.Host, k, trusting(authority))
			attempts := func() (n int) {
				for _, r := range tt.at(server).Requests() {
					if _, p, _ := r.BasicAuth(); p == "canary-wrong" {
						n++
					}
				}
				return n
			}
			storm := func(want int) {
				t.Helper()
				var pulls sync.WaitGroup
				for i := range 50 {
					pulls.Go(func() {
						err := pull(t.Context(), e, fmt.Sprintf("app%d", i%10), image)
						wantError(t, err, "unauthorized", "authorization failed")
					})
				}
				pulls.Wait()
				if got := attempts(); got != want {
					t.Errorf("got %d attempts with a wrong password, want %d", got, want)
				}
			}
			storm(1)
			storm(1)
			wantError(t, pull(t.Context(), e, "app", image), "unauthorized: the credential was refused", "it is sent again in ", ", or when it changes")
			time.Sleep(5100 * time.Millisecond)
			storm(2)
			k.set("canary-right")
			if err := pull(t.Context(), e, "app", image); err != nil {
				t.Errorf("with the right password: %v", err)
			}
			if got := attempts(); got != 2 {
				t.Errorf("got %d attempts with a wrong password, want 2", got)
			}
		})
	}
}

// C9, C13: a pull that waits for what another hears of a password goes on with the one that has taken its place, if it was wrong.
func TestPasswordChangesWhileWaiting(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("waiting", 1<<10)
	authority := registrytest.NewAuthority(t)
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	inner := registrytest.Basic(user, "canary-right", registrytest.Registry{Image: image})
	server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); p == "canary-wrong" {
			asked <- struct{}{}
			<-answer
		}
		inner.ServeHTTP(w, r)
	}))
	k := &rotating{}
	k.set("canary-wrong")
	e := newEndpoint(t, server.Host, k, trusting(authority))
	var pulls sync.WaitGroup
	begin := func(name string) {
		pulls.Go(func() {
			if err := pull(t.Context(), e, name, image); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	begin("one")
	<-asked
	begin("two")
	time.Sleep(200 * time.Millisecond) // until it waits, too
	k.set("canary-right")
	close(answer)
	pulls.Wait()
	if more := len(asked); more > 0 {
		t.Errorf("got the wrong password sent %d times more", more)
	}
}

// C13: a registry that says nothing of a wrong password, as it has too much to do, is not sent it by all who wait.
func TestWrongPasswordWhereTheRegistryIsBusy(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("busy", 1<<10)
	authority := registrytest.NewAuthority(t)
	tokens := registrytest.NewTokens(user, "canary-right")
	var asked, refused atomic.Int32
	busy := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _, ok := r.BasicAuth()
			if ok && asked.Add(1) <= 2 {
				time.Sleep(100 * time.Millisecond) // so that the others wait
				registrytest.Fail(w, http.StatusBadGateway, "UNAVAILABLE", "busy")
				return
			}
			if ok {
				refused.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	}
	realm := registrytest.Serve(t, authority.Server(t), busy(tokens))
	tokens.Realm = realm.URL + "/token"
	registry := registrytest.Registry{Image: image}
	for name, handler := range map[string]http.Handler{
		"basic": busy(registrytest.Basic(user, "canary-right", registry)), "bearer": tokens.Protect(registry),
	} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			refused.Store(0)
			server := registrytest.Serve(t, authority.Server(t), handler)
			k := &rotating{}
			k.set("canary-wrong")
			e := newEndpoint(t, server.Host, k, trusting(authority))
			var pulls sync.WaitGroup
			for i := range 50 {
				pulls.Go(func() { _ = pull(t.Context(), e, fmt.Sprint("app", i), image) })
			}
			pulls.Wait()
			if got := refused.Load(); got != 1 {
				t.Errorf("got %d attempts that a wrong password was refused for, want 1", got)
			}
		})
	}
}

// C13: a pull that is given up while it tries a wrong password does not make all send it that wait for it.
func TestTrialIsGivenUp(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("given-up", 1<<10)
	authority := registrytest.NewAuthority(t)
	var asked atomic.Int32
	first, giveUp := context.WithCancel(t.Context())
	registry := registrytest.Basic(user, "canary-right", registrytest.Registry{Image: image})
	server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok && asked.Add(1) == 1 {
			time.Sleep(200 * time.Millisecond) // so that the others wait
			giveUp()
			<-r.Context().Done()
			return
		}
		registry.ServeHTTP(w, r)
	}))
	k := &rotating{}
	k.set("canary-wrong")
	e := newEndpoint(t, server.Host, k, trusting(authority))
	var pulls sync.WaitGroup
	pulls.Go(func() { _ = pull(first, e, "first", image) })
	for asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for i := range 49 {
		pulls.Go(func() {
			wantError(t, pull(t.Context(), e, fmt.Sprint("app", i), image), "unauthorized", "authorization failed")
		})
	}
	pulls.Wait()
	if got := asked.Load() - 1; got != 1 {
		t.Errorf("got %d attempts after the one that was given up, want 1", got)
	}
}

// Pulls do not wait for one another where a registry hangs that has not taken the credential yet.
func TestTrialOfARegistryThatHangs(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("hangs", 1<<10)
	authority := registrytest.NewAuthority(t)
	server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			<-r.Context().Done()
		}
		registrytest.Basic(user, password, registrytest.Registry{Image: image}).ServeHTTP(w, r)
	}))
	opts := trusting(authority)
	opts.StallTimeout = 300 * time.Millisecond
	e := newEndpoint(t, server.Host, login(), opts)
	start := time.Now()
	var pulls sync.WaitGroup
	for i := range 50 {
		pulls.Go(func() { wantError(t, pull(t.Context(), e, fmt.Sprint("app", i), image), "stalled") })
	}
	pulls.Wait()
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("got the last error after %s, want it after little more than twice 300ms", took)
	}
}

// C13: a password that was right, and is changed on the server, is sent by few of the pulls that come then.
func TestRightPasswordIsChangedOnTheServer(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("expired", 1<<10)
	authority := registrytest.NewAuthority(t)
	for _, name := range []string{"basic", "bearer"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var changed atomic.Bool
			var attempts atomic.Int32
			// changing refuses a password that is right until it is changed, and takes its time for that
			changing := func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if _, _, ok := r.BasicAuth(); ok && changed.Load() {
						attempts.Add(1)
						time.Sleep(50 * time.Millisecond)
						w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
						registrytest.Fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "changed")
						return
					}
					h.ServeHTTP(w, r)
				})
			}
			var handler http.Handler = registrytest.Registry{Image: image}
			if name == "basic" {
				handler = changing(registrytest.Basic(user, password, handler))
			} else {
				tokens := registrytest.NewTokens(user, password)
				tokens.Realm = registrytest.Serve(t, authority.Server(t), changing(tokens)).URL + "/token"
				handler = tokens.Protect(handler)
			}
			server := registrytest.Serve(t, authority.Server(t), handler)
			e := newEndpoint(t, server.Host, login(), trusting(authority))
			if err := pull(t.Context(), e, "before", image); err != nil {
				t.Fatal(err)
			}
			changed.Store(true)
			time.Sleep(5100 * time.Millisecond) // or it was right a moment ago
			var pulls sync.WaitGroup
			for i := range 50 {
				pulls.Go(func() {
					wantError(t, pull(t.Context(), e, fmt.Sprint("app", i), image), "unauthorized", "authorization failed")
				})
			}
			pulls.Wait()
			if got := attempts.Load(); got > 4 {
				t.Errorf("got %d attempts with a password that was changed, want 4 at most: three may be of repositories that it does not open", got)
			}
		})
	}
}
