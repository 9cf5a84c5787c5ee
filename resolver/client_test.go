// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/errdefs"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// pod is the credential that a client hands over, as kubelet does of a pod's pull secret: to whoever asks.
type pod struct {
	answer registry.Credentials
	err    error
	hang   chan struct{}

	mu    sync.Mutex
	asked []string
}

func (p *pod) GetCredentials(ctx context.Context, ref, host string) (registry.Credentials, error) {
	p.mu.Lock()
	p.asked = append(p.asked, ref+" at "+host)
	p.mu.Unlock()
	if p.hang != nil {
		<-p.hang
	}
	return p.answer, p.err
}

func newPod() *pod {
	return &pod{answer: registry.Credentials{Username: "pod-user", Secret: "pod-pass"}}
}

var podSecrets = []string{"pod-user", "pod-pass", "cG9kLXVzZXI6cG9kLXBhc3M", "pod-header"}

// SEC-06, SEC-07: a client's credential and headers are for the registry that the reference names, and for no other.
func TestClientCredential(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("pod", 4<<10)
	whole := registrytest.Registry{Image: content}
	ours := func(h http.Handler) http.Handler { return registrytest.Basic("canary-user", "canary/pass+word", h) }
	theirs := func(h http.Handler) http.Handler { return registrytest.Basic("pod-user", "pod-pass", h) }
	open := func(h http.Handler) http.Handler { return h }
	for _, tt := range []struct {
		name   string
		guard  func(http.Handler) http.Handler
		config func(target) string
		ref    func(target) string // nil: of quay.io
		plain  bool
		kind   error // nil: the pull works
		asked  bool
		sent   bool // the registry receives what the client handed over
	}{
		{name: "rewritten, own credential", guard: ours, config: func(s target) string { return s.registry(withPassword) + from(s) }},
		{name: "rewritten, no credential", guard: open, config: func(s target) string { return s.registry() + from(s) }},
		{name: "rewritten, no credential, and it asks for the pod's", guard: theirs, config: func(s target) string { return s.registry() + from(s) }, kind: errdefs.ErrUnauthenticated},
		{name: "rewritten to what is not configured", guard: theirs, plain: true, config: func(s target) string { return from(s) }, kind: errdefs.ErrUnauthenticated},
		{name: "source, no credential configured", guard: theirs, config: func(s target) string { return s.registry() },
			ref: func(s target) string { return s.Host + "/org/app:1" }, asked: true, sent: true},
		{name: "source, credential configured", guard: ours, config: func(s target) string { return s.registry(withPassword) },
			ref: func(s target) string { return s.Host + "/org/app:1" }},
		{name: "source by a rule", guard: theirs, config: func(s target) string {
			return s.registry() + fmt.Sprintf("[[rules]]\nfrom = %q\nto = [\"source\"]\n", s.Host)
		}, ref: func(s target) string { return s.Host + "/org/app:1" }, asked: true, sent: true},
		{name: "source that is not configured", guard: theirs, plain: true,
			config: func(target) string { return "[[rules]]\nfrom = \"quay.io\"\nto = [\"source\"]\n" },
			ref:    func(s target) string { return s.Host + "/org/app:1" }, asked: true, sent: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.guard(whole))
			if tt.plain {
				s.Server = registrytest.Serve(t, nil, tt.guard(whole))
			}
			n := newNode(t, tt.config(s))
			ref := ref
			if tt.ref != nil {
				ref = tt.ref(s)
			}
			p := newPod()
			err := n.pull(t.Context(), ref, registry.WithCredentials(p), registry.WithHeaders(http.Header{"X-Pod": {"pod-header"}}))
			if tt.kind != nil {
				wantError(t, err, tt.kind, "unauthorized", s.Host)
			} else if err != nil {
				t.Fatal(err)
			} else {
				n.wantImage(t, ref, content)
			}
			if got := len(p.asked) > 0; got != tt.asked {
				t.Errorf("the client was asked for %q, want asked %t", p.asked, tt.asked)
			}
			for _, asked := range p.asked {
				if want := ref + " at " + s.Host; asked != want {
					t.Errorf("the client was asked for %q, want %q", asked, want)
				}
			}
			if got := s.Received(podSecrets...); len(got) > 0 != tt.sent {
				t.Errorf("the registry received %q of the client, want any %t", got, tt.sent)
			}
			if got := s.Received("canary-user", "Y2FuYXJ5LXVzZXI6"); len(got) > 0 && tt.sent {
				t.Errorf("the registry received %q", got)
			}
		})
	}
}

// SEC-07: of several targets only "source" sees what the client handed over.
func TestClientCredentialAfterFallback(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("pod", 4<<10)
	mirror := serve(t, registrytest.Basic("else", "else", registrytest.Registry{Image: content}))
	origin := serve(t, registrytest.Basic("pod-user", "pod-pass", registrytest.Registry{Image: content}))
	n := newNode(t, mirror.registry(withPassword)+origin.registry()+
		fmt.Sprintf("[[rules]]\nfrom = %q\nto = [%q, \"source\"]\n", origin.Host, mirror.Host+"/m"))
	ref := origin.Host + "/org/app:1"
	if err := n.pull(t.Context(), ref, registry.WithCredentials(newPod())); err != nil {
		t.Fatal(err)
	}
	n.wantImage(t, ref, content)
	if got := mirror.Received(podSecrets...); len(got) > 0 {
		t.Errorf("the mirror received %q", got)
	}
	if got := origin.Received(canaries[:4]...); len(got) > 0 {
		t.Errorf("the origin received %q", got)
	}
}

// SEC-07: what one client may pull, another may not for that: tokens are of the client that they were made for.
func TestClientTokensAreNotShared(t *testing.T) {
	t.Parallel()
	tokens := registrytest.NewTokens("pod-user", "pod-pass")
	realm := serve(t, tokens)
	tokens.Realm = realm.URL + "/token"
	content := registrytest.NewImage("tokens", 4<<10)
	s := serve(t, tokens.Protect(registrytest.Registry{Image: content}))
	n := newNode(t, strings.Replace(s.registry(), "certificates = [", fmt.Sprintf("certificates = [%q, ", realm.ca), 1))
	ref := s.Host + "/org/app:"
	if err := n.pull(t.Context(), ref+"1", registry.WithCredentials(newPod())); err != nil {
		t.Fatal(err)
	}
	wantError(t, n.pull(t.Context(), ref+"2"), errdefs.ErrUnauthenticated, "unauthorized")
	stranger := newPod()
	stranger.answer.Secret = "pod-wrong"
	wantError(t, n.pull(t.Context(), ref+"3", registry.WithCredentials(stranger)), errdefs.ErrUnauthenticated, "unauthorized")
}

// A client may have an identity token in place of a password, or nothing for this host.
func TestClientWithoutPassword(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("identity", 4<<10)
	tokens := registrytest.NewTokens("<token>", "pod-pass")
	realm := serve(t, tokens)
	tokens.Realm = realm.URL + "/token"
	s := serve(t, tokens.Protect(registrytest.Registry{Image: content}))
	n := newNode(t, strings.Replace(s.registry(), "certificates = [", fmt.Sprintf("certificates = [%q, ", realm.ca), 1))
	ref := s.Host + "/org/app:1"
	none := &pod{}
	wantError(t, n.pull(t.Context(), ref, registry.WithCredentials(none)), errdefs.ErrUnauthenticated, "unauthorized")
	if len(none.asked) == 0 {
		t.Error("the client was not asked")
	}
	bare := &pod{answer: registry.Credentials{Username: "pod-user"}}
	wantError(t, n.pull(t.Context(), ref, registry.WithCredentials(bare)), errdefs.ErrUnauthenticated, "unauthorized")
	if got := realm.Received("account=", "Authorization: Basic"); len(got) > 0 {
		t.Errorf("the realm received %q of a user without a password, want nothing", got)
	}
	token := &pod{answer: registry.Credentials{Secret: "pod-pass"}}
	if err := n.pull(t.Context(), ref, registry.WithCredentials(token)); err != nil {
		t.Error(err)
	}

	basic := serve(t, registrytest.Basic("pod-user", "pod-pass", registrytest.Registry{Image: content}))
	n = newNode(t, basic.registry())
	wantError(t, n.pull(t.Context(), basic.Host+"/org/app:1", registry.WithCredentials(token)), errdefs.ErrUnauthenticated, "asks for a username and a password")
	if got := basic.Received("Authorization: Basic"); len(got) > 0 {
		t.Errorf("the registry received %q, want no identity token where a password is wanted", got)
	}
}

// SEC-07, SEC-08: a client whose callback fails is an error at once, which quotes nothing, and not an anonymous pull. One
// that never answers does not outlive the pull.
func TestClientDoesNotAnswer(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("silent", 4<<10)
	s := serve(t, registrytest.Basic("pod-user", "pod-pass", registrytest.Registry{Image: content}))
	n := newNode(t, s.registry())
	ref := s.Host + "/org/app:1"
	ctx, logged := traced(t)

	failing := newPod()
	failing.err = errors.New("cannot read pod-pass of pod-user")
	start := time.Now()
	wantError(t, n.pull(ctx, ref, registry.WithCredentials(failing)), errdefs.ErrUnauthenticated, "ask client for credential: it cannot give the one that it has; is that, or the pull secret that it is of, malformed?")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s, want an answer at once", took)
	}
	wantNoSecret(t, "the log", logged.String())

	hanging := newPod()
	hanging.hang = make(chan struct{})
	defer close(hanging.hang)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- n.pull(ctx, ref, registry.WithCredentials(hanging)) }()
	for asked := false; !asked; {
		hanging.mu.Lock()
		asked = len(hanging.asked) > 0
		hanging.mu.Unlock()
		runtime.Gosched()
	}
	start = time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %s to end, want 1s at most", took)
	}
	n.wantNothing(t)
}

// Asking a client leaves no goroutine behind: there is one for each pull.
func TestClientIsLetGo(t *testing.T) {
	content := registrytest.NewImage("let go", 4<<10)
	s := serve(t, registrytest.Basic("pod-user", "pod-pass", registrytest.Registry{Image: content}))
	plain := registrytest.Serve(t, nil, registrytest.Registry{Image: content})
	n := newNode(t, s.registry()+fmt.Sprintf("[[rules]]\nfrom = \"quay.io\"\nto = [%q]\n", plain.Host+"/m"))
	for _, ref := range []string{s.Host + "/org/app:1", ref} {
		if err := n.pull(t.Context(), ref, registry.WithCredentials(newPod())); err != nil {
			t.Fatal(err)
		}
	}
	left := func() []string {
		stacks := make([]byte, 1<<20)
		return slices.DeleteFunc(strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n"), func(stack string) bool {
			return !strings.Contains(stack, "registry.(*OCIRegistry).MarshalAny")
		})
	}
	for deadline := time.Now().Add(5 * time.Second); len(left()) > 0 && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if got := left(); len(got) > 0 {
		t.Errorf("%d goroutines are left:\n%s", len(got), got[0])
	}
}
