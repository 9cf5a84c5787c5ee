// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// traced returns a context whose logger writes everything, at trace level, to what it also returns.
func traced(t testing.TB) (context.Context, fmt.Stringer) {
	t.Helper()
	var text lockedBuffer
	logger := logrus.New()
	logger.SetLevel(logrus.TraceLevel)
	logger.SetOutput(&text)
	return log.WithLogger(t.Context(), logrus.NewEntry(logger)), &text
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// SEC-08: whatever a registry sends back of what it was sent, a pull's log at trace level and its error do not have it:
// the configured credential, a client's own, a token, or the query of a signed address.
func TestPullPrintsNoSecret(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("print", 4<<10)
	echo := func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		all := fmt.Sprintf("%s %s %s https://s3.test/x?sig=canary-signature", r.Header.Get("Authorization"), user, password)
		w.Header().Set("X-Echo", all)
		registrytest.Fail(w, http.StatusForbidden, "DENIED", all)
	}
	signed := serve(t, http.HandlerFunc(echo))
	redirect := registrytest.Redirect("/blobs/", signed.URL, "?X-Signature=canary-signature", registrytest.Registry{Image: content})
	tokens := registrytest.NewTokens("canary-user", "canary/pass+word")
	realm := serve(t, tokens)
	tokens.Realm = realm.URL + "/token"
	echoes := at("/blobs/", echo, registrytest.Registry{Image: content})
	for _, tt := range []struct {
		name   string
		server http.Handler
		keys   string
		client bool
	}{
		{"password", registrytest.Basic("canary-user", "canary/pass+word", echoes), withPassword, false},
		{"token", tokens.Protect(echoes), withPassword, false},
		{"client's password", registrytest.Basic("pod-user", "pod-pass", echoes), "", true},
		{"signed address", redirect, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.server)
			trusted := strings.NewReplacer("certificates = [", fmt.Sprintf("certificates = [%q, %q, ", realm.ca, signed.ca))
			n := newNode(t, trusted.Replace(s.registry(tt.keys)))
			var opts []registry.Opt
			if tt.client {
				opts = append(opts, registry.WithCredentials(newPod()))
			}
			ctx, logged := traced(t)
			wantError(t, n.pull(ctx, s.Host+"/org/app:1", opts...), nil, "403", "forbidden")
			if !strings.Contains(logged.String(), "level=debug") {
				t.Error("nothing was logged at debug level")
			}
			wantNoSecret(t, "the log", logged.String())
			n.wantNothing(t)
		})
	}
}

// SEC-08: what containerd goes by is not changed on its way to it, so that a header of that kind can get into an error. It
// does not get out.
func TestErrorQuotesNoSecret(t *testing.T) {
	t.Parallel()
	whole := registrytest.Registry{Image: registrytest.NewImage("quote", 4<<10)}
	echo := at("/manifests/", func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		w.Header().Set("Docker-Content-Digest", "sha256:"+password)
		w.Header().Set("Content-Length", "512")
	}, whole)
	for _, tt := range []struct{ name, user, password, keys string }{
		{"configured", "canary-user", "canary/pass+word", withPassword},
		{"client's", "pod-user", "pod-pass", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, registrytest.Basic(tt.user, tt.password, echo))
			n := newNode(t, s.registry(tt.keys))
			wantError(t, n.pull(t.Context(), s.Host+"/org/app:1", registry.WithCredentials(newPod())), nil, "sha256:***")
			n.wantNothing(t)
		})
	}
}

// A pull that worked is one line at info level, with where it went and what it got.
func TestPullIsLogged(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("line", 4<<10)
	s := serve(t, registrytest.Basic("canary-user", "canary/pass+word", registrytest.Registry{Image: content}))
	n := newNode(t, s.registry(withPassword)+from(s))
	ctx, logged := traced(t)
	if err := n.pull(ctx, ref); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(logged.String()) {
		if strings.Contains(line, `level=info msg="pulled image"`) {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 {
		t.Fatalf("got %d lines, want 1: %q", len(lines), lines)
	}
	size := len(content.Manifest) + len(content.Config) + len(content.Layer)
	for _, want := range []string{
		`ref="` + ref + `"`, `source="` + s.Host + `"`, `pulled-as="` + s.Host + `/mirror/org/app:1"`, "rule=quay.io",
		`digest="` + content.Digest().String() + `"`, fmt.Sprintf("bytes=%d ", size), "seconds=",
	} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("got %s, want %s in it", lines[0], want)
		}
	}
	wantNoSecret(t, "the log", logged.String())
}
