// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// C9: a password that has a successor is not sent for ever: a registry may refuse an expired one with 403, as ECR does, and
// that says nothing of the password.
func TestPasswordExpiresWithForbidden(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("expires", 1<<10)
	authority := registrytest.NewAuthority(t)
	var accepted atomic.Value
	accepted.Store("canary-old")
	server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, ok := r.BasicAuth(); ok && p != accepted.Load() {
			registrytest.Fail(w, http.StatusForbidden, "DENIED", "Your authorization token has expired. Reauthenticate and try again.")
			return
		}
		registrytest.Basic(user, accepted.Load().(string), registrytest.Registry{Image: image}).ServeHTTP(w, r)
	}))
	k := &rotating{}
	k.set("canary-old")
	e := newEndpoint(t, server.Host, k, trusting(authority))
	if err := pull(t.Context(), e, "app", image); err != nil {
		t.Fatal(err)
	}
	// The keychain's time is over, as an answer's cacheDuration is.
	accepted.Store("canary-new")
	k.set("canary-new")
	k.mu.Lock()
	k.given = credential.Credential{}
	k.mu.Unlock()
	time.Sleep(5100 * time.Millisecond)
	if err := pull(t.Context(), e, "app", image); err != nil {
		t.Errorf("with a keychain that has the new password: %v", err)
	}
}
