// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

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

// echo answers with what it was sent, wherever a server can put it: status line, headers, challenge and body. A session and a
// signed address are secrets of the server's own.
func echo(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		authorization := r.Header.Get("Authorization")
		user, password, _ := r.BasicAuth()
		_ = r.ParseForm()
		all := fmt.Sprintf("%s %s %s %s %s https://s3.test/x?sig=canary-signature", authorization, user, password, url.QueryEscape(password), r.PostForm.Encode())
		for name, value := range map[string]string{
			"X-Echo": all, "Warning": `299 - "` + all + `"`, "Set-Cookie": "c=canary-session " + all, "Location": "https://" + url.QueryEscape(all),
		} {
			w.Header().Set(name, value)
		}
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="`+all+`"`)
		}
		registrytest.Fail(w, status, "DENIED", all)
	}
}

// SEC-08: what authenticates is in no error and in no line of the log at trace level, whatever a server sends back.
func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("secrets", 1<<10)
	authority := registrytest.NewAuthority(t)
	withAuthorization := func(h http.HandlerFunc, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				h(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	presigned := registrytest.Serve(t, authority.Server(t), echo(http.StatusForbidden))
	malformed := func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, p, _ := r.BasicAuth()
		_, _ = io.WriteString(conn, "HTTP/1.1 "+p+"\r\n\r\n")
	}
	statusLine := func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, p, _ := r.BasicAuth()
		_, _ = io.WriteString(conn, "HTTP/1.1 418 "+p+"\r\nContent-Length: 0\r\n\r\n")
	}
	basic := func(h http.Handler) http.Handler { return registrytest.Basic(user, password, h) }
	for _, tt := range []struct {
		name     string
		registry func(*registrytest.Tokens) http.Handler
		realm    http.Handler
		http1    bool
		want     string // in the error
	}{
		{name: "works", registry: func(tokens *registrytest.Tokens) http.Handler {
			return tokens.Protect(registrytest.Registry{Image: image})
		}},
		{name: "basic, 403", registry: func(*registrytest.Tokens) http.Handler { return basic(echo(403)) }, want: "403"},
		{name: "basic, 401", registry: func(*registrytest.Tokens) http.Handler {
			return withAuthorization(echo(401), basic(nil))
		}, want: "authorization failed"},
		{name: "basic, 500", registry: func(*registrytest.Tokens) http.Handler { return basic(echo(500)) }, want: "500"},
		{name: "bearer, 403", registry: func(tokens *registrytest.Tokens) http.Handler { return tokens.Protect(echo(403)) }, want: "403"},
		{name: "bearer, 401", registry: func(tokens *registrytest.Tokens) http.Handler {
			return withAuthorization(echo(401), tokens.Protect(nil))
		}, want: "authorization failed"},
		{name: "challenge", registry: func(*registrytest.Tokens) http.Handler {
			return withAuthorization(func(w http.ResponseWriter, r *http.Request) {
				_, p, _ := r.BasicAuth()
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+p+`"`)
				w.WriteHeader(http.StatusUnauthorized)
			}, basic(nil))
		}, want: "token realm"},
		{name: "token server, 400", realm: echo(400), want: "400"},
		{name: "token server, 401", realm: echo(401), want: "unauthorized"},
		{name: "token server, malformed", realm: http.HandlerFunc(malformed), http1: true, want: "fetch token"},
		{name: "malformed status", registry: func(*registrytest.Tokens) http.Handler { return basic(http.HandlerFunc(malformed)) }, http1: true, want: "malformed"},
		{name: "status line", registry: func(*registrytest.Tokens) http.Handler { return basic(http.HandlerFunc(statusLine)) }, http1: true, want: "418 ***"},
		{name: "presigned redirect", registry: func(*registrytest.Tokens) http.Handler {
			return basic(registrytest.Redirect("/blobs/", presigned.URL+"/canary-path", "?X-Signature=canary-signature", registrytest.Registry{Image: image}))
		}, want: presigned.Host},
		{name: "presigned redirect to itself", registry: func(*registrytest.Tokens) http.Handler {
			redirect := registrytest.Redirect("/blobs/", "", "?X-Signature=canary-signature", registrytest.Registry{Image: image})
			return basic(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.RawQuery != "" {
					echo(http.StatusForbidden)(w, r)
					return
				}
				redirect.ServeHTTP(w, r)
			}))
		}, want: "403"},
		{name: "presigned redirect that is refused", registry: func(*registrytest.Tokens) http.Handler {
			return basic(registrytest.Redirect("/blobs/", "http://127.0.0.1:1/canary-path", "?X-Signature=canary-signature", registrytest.Registry{Image: image}))
		}, want: "refusing redirect to http://127.0.0.1:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := authority.Server(t)
			if tt.http1 {
				config.NextProtos = []string{"http/1.1"}
			}
			tokens := registrytest.NewTokens(user, password)
			var realm http.Handler = tokens
			if tt.realm != nil {
				realm = tt.realm
			}
			tokens.Realm = registrytest.Serve(t, config.Clone(), realm).URL + "/token"
			handler := tokens.Protect(registrytest.Registry{Image: image})
			if tt.registry != nil {
				handler = tt.registry(tokens)
			}
			server := registrytest.Serve(t, config, handler)
			ctx, logged := traced(t)
			e := newEndpoint(t, server.Host, login(), trusting(authority))
			err := pull(ctx, e, "app", image)
			text := logged.String()
			if !strings.Contains(text, "level=debug") {
				t.Fatal("nothing was logged at debug level")
			}
			if tt.want == "" && err != nil || tt.want != "" && err == nil {
				t.Fatalf("got error %v, want one with %q", err, tt.want)
			}
			if err != nil {
				wantError(t, err, tt.want)
				text += fmt.Sprintf("%v %+v %#v", err, err, err)
			}
			// The operator's own headers are the client's to log: containerd does so.
			for _, canary := range append([]string{"canary-signature", "canary-path", "canary-session"}, secrets[:5]...) {
				if i := strings.Index(text, canary); i >= 0 {
					t.Errorf("%q is printed: …%s…", canary, text[max(0, i-200):min(len(text), i+60)])
				}
			}
		})
	}
}

// SEC-15: of an error no more than a bounded part is read, and the rest is not waited for.
func TestErrorBodyIsBounded(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("error body", 1<<10)
	authority := registrytest.NewAuthority(t)
	var sent int
	done := make(chan struct{})
	server := registrytest.Serve(t, authority.Server(t), only("/blobs/", func(w http.ResponseWriter, _ *http.Request) {
		defer close(done)
		w.WriteHeader(http.StatusBadRequest)
		for chunk := bytes.Repeat([]byte("e"), 64<<10); sent < 256<<20; {
			n, err := w.Write(chunk)
			sent += n
			if err != nil {
				return
			}
		}
	}, registrytest.Registry{Image: image}))
	wantError(t, pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image), "400")
	<-done
	if sent > 16<<20 {
		t.Errorf("the registry could send %d bytes of an error, want little more than 64 KiB", sent)
	}
}

// SEC-08: the endpoint takes what it holds out of any text.
func TestRedact(t *testing.T) {
	t.Parallel()
	g := guard(t, login(), nil)
	text := "a " + password + " b " + userpass + " c " + url.QueryEscape(password) + " d " + url.PathEscape(password) + " e"
	if got := g.endpoint.Redact(text); got != text {
		t.Errorf("got %q before anything was asked, want no change", got)
	}
	g.pull(t, "app")
	text += " " + g.tokens.Issued()[0]
	if got, want := g.endpoint.Redact(text), "a *** b *** c *** d *** e ***"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
