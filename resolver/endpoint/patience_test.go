// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// R11, R12: a registry that asks for time gets it, and not for ever.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("later", 1<<10)
	authority := registrytest.NewAuthority(t)
	later := func(code int, after string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", after)
			registrytest.Fail(w, code, "TOOMANYREQUESTS", "too many requests")
		}
	}
	for _, tt := range []struct {
		name    string
		times   int64
		code    int
		after   string
		least   time.Duration
		most    int
		failure string
	}{
		{name: "R11 429 twice", times: 2, code: 429, after: "2", least: 4 * time.Second, most: 3},
		{name: "429 until a date that is past", times: 1, code: 429, after: "Mon, 02 Jan 2006 15:04:05 GMT", least: time.Second, most: 2},
		{name: "429 of no length", times: 1, code: 429, after: "", least: time.Second, most: 2},
		{name: "429 of no sense", times: 1, code: 429, after: "-1e9", least: time.Second, most: 2},
		{name: "503 once", times: 1, code: 503, after: "1", least: time.Second, most: 2},
		{name: "R12 429 for ever", times: 100, code: 429, after: "1", least: 4 * time.Second, most: 5, failure: "429"},
		{name: "R12 429 for an hour", times: 100, code: 429, after: "3600", most: 1, failure: "429 Too Many Requests: it asks for another 1h0m0s"},
		{name: "R12 503 for an hour", times: 100, code: 503, after: "3600", most: 1, failure: "503 Service Unavailable: it asks for another 1h0m0s"},
		{name: "R12 429 for a minute in all", times: 100, code: 429, after: "26", least: 26 * time.Second, most: 2, failure: "429 Too Many Requests: it asks for another 26s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := registrytest.Serve(t, authority.Server(t), first(tt.times, "/manifests/1", later(tt.code, tt.after), registrytest.Registry{Image: image}))
			e := newEndpoint(t, server.Host, login(), trusting(authority))
			start := time.Now()
			err := pull(t.Context(), e, "app", image)
			if took := time.Since(start); took < tt.least || took > tt.least+10*time.Second {
				t.Errorf("took %s, want %s or a little more", took, tt.least)
			}
			if tt.failure == "" && err != nil {
				t.Fatal(err)
			}
			if tt.failure != "" {
				wantError(t, err, tt.failure)
			}
			if got := len(server.Lines("/manifests/1")); got > tt.most {
				t.Errorf("got %d requests, want %d at most", got, tt.most)
			}
		})
	}
}

// R12: after the last answer that asks for time, nothing is waited for: nobody asks again.
func TestNoWaitAfterTheLast(t *testing.T) {
	t.Parallel()
	const wait = 3 * time.Second
	image := registrytest.NewImage("last", 1<<10)
	authority := registrytest.NewAuthority(t)
	for _, tt := range []struct {
		code, requests int
	}{
		{http.StatusTooManyRequests, 5},
		{http.StatusServiceUnavailable, 2}, // containerd asks no more where it is said twice
	} {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			t.Parallel()
			var answered atomic.Pointer[time.Time]
			server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				now := time.Now()
				answered.Store(&now)
				w.Header().Set("Retry-After", fmt.Sprint(wait.Seconds()))
				registrytest.Fail(w, tt.code, "TOOMANYREQUESTS", "later")
			}))
			wantError(t, pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image), fmt.Sprint(tt.code))
			if ago := time.Since(*answered.Load()); ago >= wait {
				t.Errorf("got the error %s after the last answer, want it without a wait of %s", ago, wait)
			}
			if got := len(server.Requests()); got != tt.requests {
				t.Errorf("got %d requests, want %d", got, tt.requests)
			}
		})
	}
}

// R11: how long to wait is read before secrets are replaced: a short password may be the very number.
func TestRetryAfterAndShortPassword(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("short", 1<<10)
	authority := registrytest.NewAuthority(t)
	server := registrytest.Serve(t, authority.Server(t), registrytest.Basic(user, "3", first(1, "/manifests/1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3")
		registrytest.Fail(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests")
	}, registrytest.Registry{Image: image})))
	k := login()
	k.cred.Password = "3"
	start := time.Now()
	if err := pull(t.Context(), newEndpoint(t, server.Host, k, trusting(authority)), "app", image); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 3*time.Second {
		t.Errorf("took %s, want the 3s that the registry asked for", took)
	}
}

// R1, R2: a registry that cannot be reached is so within the dial timeout, and is known to be for a while.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("unreachable", 1<<10)
	full := blackhole(t)
	for _, tt := range []struct {
		name, host, want string
		cause            endpoint.Cause
	}{
		{"R1 refused", closedPort(t), "connection refused", endpoint.Refused},
		{"R2 blackhole", full, "connection timed out", endpoint.TimedOut},
		{"R3 no such host", "direct.invalid", "host not found", endpoint.NoSuchHost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, tt.host, login(), endpoint.Options{DialTimeout: 300 * time.Millisecond})
			start := time.Now()
			err := pull(t.Context(), e, "app", image)
			wantError(t, err, tt.host+": "+tt.want)
			var own *endpoint.Error
			if !errors.As(err, &own) || own.Cause != tt.cause {
				t.Errorf("got %v, want cause %s", err, tt.cause)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %s, want little more than the dial timeout of 300ms: it is not tried again", took)
			}
			if ago, down := e.Down(); !down || ago > 3*time.Second {
				t.Errorf("got down %t %s ago, want true and a moment", down, ago)
			}
		})
	}
}

// R1, R2, R10, P13: a registry that says nothing is asked once by a pull, by tag as by digest, whatever it is that is silent.
func TestSilentIsAskedOnce(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("silent", 1<<10)
	authority := registrytest.NewAuthority(t)
	hangs := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, tt := range []struct {
		name string
		// serve returns the host of a registry, and what counts how often it or its token server was tried
		serve func(t *testing.T) (host string, asked func() int)
	}{
		{"before TLS", func(t *testing.T) (string, func() int) { return silent(t) }},
		{"after TLS", func(t *testing.T) (string, func() int) {
			server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(hangs))
			return server.Host, func() int { return len(server.Requests()) }
		}},
		{"token server", func(t *testing.T) (string, func() int) {
			tokens := registrytest.NewTokens(user, password)
			host, asked := silent(t)
			tokens.Realm = "https://" + host + "/token"
			return registrytest.Serve(t, authority.Server(t), tokens.Protect(registrytest.Registry{Image: image})).Host, asked
		}},
	} {
		for _, name := range []string{"app:1", "app@" + image.Digest().String()} {
			t.Run(tt.name+", "+name, func(t *testing.T) {
				t.Parallel()
				host, asked := tt.serve(t)
				opts := trusting(authority)
				opts.StallTimeout = time.Second
				e := newEndpoint(t, host, login(), opts)
				wantError(t, pull(t.Context(), e, name, image), " 1s")
				if got := asked(); got != 1 {
					t.Errorf("got %d attempts at what is silent, want 1", got)
				}
			})
		}
	}
}
