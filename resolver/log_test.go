// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// traced returns a context whose logger writes everything, at trace level, to what it also returns.
func traced(t testing.TB) (context.Context, fmt.Stringer) { return logged(t, logrus.TraceLevel) }

func logged(t testing.TB, level logrus.Level) (context.Context, fmt.Stringer) {
	t.Helper()
	var text lockedBuffer
	logger := logrus.New()
	logger.SetLevel(level)
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

// SEC-08: nor does the query of a signed address, where the pull is the client's own and containerd quotes the address.
func TestErrorQuotesNoSignature(t *testing.T) {
	t.Parallel()
	content := registrytest.Registry{Image: registrytest.NewImage("signature", 4<<10)}
	signed := registrytest.Serve(t, nil, status(http.StatusForbidden))
	s := registrytest.Serve(t, nil, registrytest.Redirect("/blobs/", signed.URL, "?X-Signature=canary-signature", content))
	n := newNode(t, fmt.Sprintf("[[rules]]\nfrom = %q\nto = [\"source\"]\n", s.Host))
	wantError(t, n.pull(t.Context(), s.Host+"/org/app:1"), nil, "403", signed.Host)
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

// A target that fails with every pull is said once, and once more when it works, with how often it failed in between. Each error is
// whole.
func TestRepeatedFailureIsSummedUp(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("repeat", 4<<10)
	var works, broken atomic.Bool
	first := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case works.Load():
			registrytest.Registry{Image: content}.ServeHTTP(w, r)
		case broken.Load():
			http.Error(w, "broken", http.StatusForbidden)
		default:
			http.NotFound(w, r)
		}
	}))
	second := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/absent/") {
			http.NotFound(w, r)
			return
		}
		registrytest.Registry{Image: content}.ServeHTTP(w, r)
	}))
	n := newNode(t, first.registry()+second.registry()+from(first, second))
	ctx, logged := traced(t)
	pull := func(times int, ref string, good bool) {
		t.Helper()
		for range times {
			err := n.pull(ctx, ref)
			if good && err != nil {
				t.Fatal(err)
			}
			if !good {
				wantError(t, err, errdefs.ErrNotFound, "from "+first.Host+"/mirror/org/absent/app:1: not found", "; then from "+second.Host+"/mirror/org/absent/app:1: not found")
			}
		}
	}
	want := func(name string, count int, parts ...string) {
		t.Helper()
		got := 0
		for line := range strings.Lines(logged.String()) {
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
				got++
			}
		}
		if got != count {
			t.Errorf("%s: got %d lines with %q, want %d:\n%s", name, got, parts, count, logged)
		}
	}
	pull(5, ref, true)
	want("one failure", 1, "level=warning", "trying the next", "cause=\"not found\"", `ref="`+ref+`"`)
	pull(3, "quay.io/org/absent/app:1", false)
	want("that of another image", 1, "level=warning", "trying the next", "cause=\"not found\"", "absent/app:1")
	broken.Store(true)
	pull(2, ref, true)
	want("another cause", 1, "level=warning", "trying the next", "forbidden")
	want("in all", 3, "level=warning")
	works.Store(true)
	pull(2, ref, true)
	want("both causes ended", 1, "level=info", "target of a pull works again", "repeated=5 ", `pulled-as="`+first.Host+`/mirror/org/app:1"`)
	works.Store(false)
	pull(1, ref, true)
	want("a new failure", 2, "level=warning", "trying the next", "forbidden")
}

// Nor does containerd's client repeat it, unless that is asked for.
func TestRepeatedFailureIsOneLine(t *testing.T) {
	t.Parallel()
	first := serve(t, status(http.StatusNotFound))
	second := serve(t, registrytest.Registry{Image: registrytest.NewImage("one line", 4<<10)})
	for level, want := range map[logrus.Level]int{logrus.InfoLevel: 1, logrus.DebugLevel: 6} {
		n := newNode(t, first.registry()+second.registry()+from(first, second))
		ctx, text := logged(t, level)
		for range 5 {
			if err := n.pull(ctx, ref); err != nil {
				t.Fatal(err)
			}
		}
		got := 0
		for line := range strings.Lines(text.String()) {
			if strings.Contains(line, "level=debug") {
				continue
			}
			if strings.Contains(line, first.Host) {
				got++
			}
		}
		if got != want {
			t.Errorf("at level %s: got %d lines of what failed, want %d:\n%s", level, got, want, text)
		}
	}
}
