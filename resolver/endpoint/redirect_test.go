// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// SEC-01, SEC-05, R18: blobs may be on another host or port, and nothing secret goes there.
func TestRedirectToAnotherPort(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("cdn", 64<<10)
	authority := registrytest.NewAuthority(t)
	for _, scheme := range []string{"basic", "bearer"} {
		t.Run(scheme, func(t *testing.T) {
			cdn := registrytest.Serve(t, authority.Server(t), registrytest.Registry{Image: image})
			redirect := registrytest.Redirect("/blobs/", cdn.URL, "?X-Signature=presigned", registrytest.Registry{Image: image})
			guarded := registrytest.Basic(user, password, redirect)
			if scheme == "bearer" {
				tokens := registrytest.NewTokens(user, password)
				tokens.Realm = registrytest.Serve(t, authority.Server(t), tokens).URL + "/token"
				guarded = tokens.Protect(redirect)
			}
			server := registrytest.Serve(t, authority.Server(t), guarded)

			if err := pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "team/app", image); err != nil {
				t.Fatal(err)
			}
			if got := len(cdn.Lines("/blobs/")); got != 2 {
				t.Errorf("got %d blobs from the other host, want 2", got)
			}
			noSecrets(t, "the other host", cdn)
			for _, r := range cdn.Requests() {
				for name := range r.Header {
					switch name {
					case "Accept", "Accept-Encoding", "User-Agent", "Traceparent":
					default:
						t.Errorf("header %s went to the other host", name)
					}
				}
			}
			if got := server.Received("canary-key"); len(got) == 0 {
				t.Error("the operator's header did not go to the registry itself")
			}
		})
	}
}

// R5: a blob that another host sends in part goes on there where it ended.
func TestRedirectOfTheRest(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("rest", 64<<10)
	authority := registrytest.NewAuthority(t)
	whole := registrytest.Registry{Image: image}
	cdn := overHTTP1(t, authority, first(1, image.LayerPath(), cutAt(48<<10, image.Layer), whole))
	server := registrytest.Serve(t, authority.Server(t), registrytest.Redirect("/blobs/", cdn.URL, "", whole))
	if err := pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range cdn.Requests() {
		if strings.HasSuffix(r.Line, image.LayerPath()) {
			got = append(got, r.Header.Get("Range"))
		}
	}
	if len(got) != 2 || !strings.HasPrefix(got[1], "bytes=") || got[1] == "bytes=0-" {
		t.Errorf("got requests for the layer with the ranges %q, want a second one for the rest", got)
	}
}

// SEC-05: a redirect back to the registry is authorised again; one that spells it in another way is too.
func TestRedirectToItself(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("itself", 1<<10)
	authority := registrytest.NewAuthority(t)
	for _, spelling := range []string{"127.0.0.1", "localhost", "LOCALHOST"} {
		t.Run(spelling, func(t *testing.T) {
			var server *registrytest.Server
			files := only("/files/", func(w http.ResponseWriter, r *http.Request) {
				r.URL.Path = strings.TrimPrefix(r.URL.Path, "/files")
				registrytest.Registry{Image: image}.ServeHTTP(w, r)
			}, only("/blobs/", func(w http.ResponseWriter, r *http.Request) {
				_, port, _ := net.SplitHostPort(server.Host)
				http.Redirect(w, r, "https://"+spelling+":"+port+"/files"+r.URL.Path, http.StatusTemporaryRedirect)
			}, registrytest.Registry{Image: image}))
			server = registrytest.Serve(t, authority.Server(t), registrytest.Basic(user, password, files))
			_, port, _ := net.SplitHostPort(server.Host)
			e := newEndpoint(t, strings.ToLower(spelling)+":"+port, login(), trusting(authority))
			if err := pull(t.Context(), e, "app", image); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// SEC-04, R20: nothing follows a redirect from HTTPS to plain HTTP, not even with insecure.
func TestRedirectToPlainHTTP(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("plain", 1<<10)
	for name, opts := range map[string]endpoint.Options{"": {}, "insecure": {Insecure: true}} {
		t.Run(name, func(t *testing.T) {
			plain := registrytest.Serve(t, nil, registrytest.Registry{Image: image})
			authority := registrytest.NewAuthority(t)
			opts.Certificates = []string{authority.PEM}
			server := registrytest.Serve(t, authority.Server(t),
				registrytest.Basic(user, password, registrytest.Redirect("/blobs/", plain.URL, "?signed=presigned", registrytest.Registry{Image: image})))
			e := newEndpoint(t, server.Host, login(), opts)
			err := pull(t.Context(), e, "app", image)
			wantError(t, err, "refusing redirect to http://"+plain.Host)
			if strings.Contains(err.Error(), "presigned") {
				t.Errorf("the error quotes the query: %v", err)
			}
			if got := plain.Connections(); got != 0 {
				t.Errorf("got %d connections to the plain server, want 0", got)
			}
			if _, down := e.Down(); down {
				t.Error("a refused redirect marks the registry as unreachable")
			}
		})
	}
}

// SEC-04: a registry that is itself plain HTTP may redirect to plain HTTP, without the credential.
func TestRedirectOfPlainRegistry(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("both plain", 1<<10)
	cdn := registrytest.Serve(t, nil, registrytest.Registry{Image: image})
	server := registrytest.Serve(t, nil,
		registrytest.Basic(user, password, registrytest.Redirect("/blobs/", cdn.URL, "", registrytest.Registry{Image: image})))
	if err := pull(t.Context(), newEndpoint(t, server.Host, login(), endpoint.Options{Insecure: true}), "app", image); err != nil {
		t.Fatal(err)
	}
	noSecrets(t, "the other host", cdn)
}

// SEC-04, R4: what a registry of plain HTTP redirects to, and where it sends for a token, is as good when the connection of another
// pull was lost meanwhile, after which it is looked whether the port speaks TLS by now.
func TestPlainRegistryBesideALostConnection(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("plain, lost", 1<<10)
	for _, tt := range []struct {
		name, held string
		answer     func(cdn *registrytest.Server, tokens *registrytest.Tokens) http.Handler
	}{
		{"redirect", "/blobs/", func(cdn *registrytest.Server, _ *registrytest.Tokens) http.Handler {
			return registrytest.Redirect("/blobs/", cdn.URL, "", nil)
		}},
		{"redirect to itself", "/blobs/", func(*registrytest.Server, *registrytest.Tokens) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://"+r.Host+r.URL.Path, http.StatusTemporaryRedirect)
			})
		}},
		{"token", "/manifests/", func(_ *registrytest.Server, tokens *registrytest.Tokens) http.Handler {
			return tokens.Protect(registrytest.Registry{Image: image})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tokens := registrytest.NewTokens(user, password)
			cdn := registrytest.Serve(t, nil, registrytest.Registry{Image: image})
			answer := tt.answer(cdn, tokens)
			held, goOn := make(chan struct{}), make(chan struct{})
			whole := registrytest.Registry{Image: image}
			server := registrytest.Serve(t, nil, paths(map[string]http.Handler{
				"token": tokens,
				"open":  whole,
				"lost":  http.HandlerFunc(reset),
				"held": first(1, tt.held, func(w http.ResponseWriter, r *http.Request) {
					close(held)
					<-goOn
					answer.ServeHTTP(w, r)
				}, only("/blobs/", whole.ServeHTTP, only("/manifests/", whole.ServeHTTP, nil))),
			}))
			tokens.Realm = server.URL + "/v2/token"
			e := newEndpoint(t, server.Host, login(), endpoint.Options{Insecure: true})
			if err := pull(t.Context(), e, "open/app", image); err != nil { // which finds out that it is plain HTTP
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- pull(t.Context(), e, "held/app", image) }()
			<-held
			if err := pull(t.Context(), e, "lost/app", image); err == nil {
				t.Error("got no error of a registry that ends every connection")
			}
			close(goOn)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := pull(t.Context(), e, "open/app", image); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// SEC-06, R20: a host that a redirect led to and that asks for a credential gets none, and none is looked for.
func TestRedirectToHostThatAsks(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("asks", 1<<10)
	authority := registrytest.NewAuthority(t)
	realm := registrytest.Serve(t, authority.Server(t), http.NotFoundHandler())
	for name, challenge := range map[string]string{
		"basic":  `Basic realm="evil"`,
		"bearer": `Bearer realm="` + realm.URL + `/token",service="evil"`,
	} {
		t.Run(name, func(t *testing.T) {
			evil := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(http.StatusUnauthorized)
			}))
			server := registrytest.Serve(t, authority.Server(t), registrytest.Redirect("/blobs/", evil.URL, "", registrytest.Registry{Image: image}))
			k := login()
			err := pull(t.Context(), newEndpoint(t, server.Host, k, trusting(authority)), "app", image)
			wantError(t, err, "401")
			if got := k.asked.Load(); got != 0 {
				t.Errorf("the credential was asked for %d times, want 0", got)
			}
			noSecrets(t, "the other host", evil)
			if got := realm.Connections(); got != 0 {
				t.Errorf("got %d connections to its realm, want 0", got)
			}
		})
	}
}

// SEC-08: an address that a redirect leads to and that cannot be parsed is not quoted: it may be signed.
func TestRedirectToWhatIsNoAddress(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("no address", 1<<10)
	authority := registrytest.NewAuthority(t)
	for _, location := range []string{"https://cdn.test/%zz?sig=presigned", "https://cdn.test:presigned/x", "/%presigned", "https://[::presigned/x", ":presigned"} {
		for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect} {
			server := registrytest.Serve(t, authority.Server(t), only("/blobs/", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", location)
				w.WriteHeader(code)
			}, registrytest.Registry{Image: image}))
			ctx, logged := traced(t)
			err := pull(ctx, newEndpoint(t, server.Host, login(), trusting(authority)), "app", image)
			wantError(t, err, server.Host+": redirects with status "+strconv.Itoa(code)+" to an address that cannot be parsed")
			if strings.Contains(err.Error()+logged.String(), "presigned") {
				t.Errorf("the error or the log quotes the address %s: %v\n%s", location, err, logged)
			}
			if got := len(server.Lines("/blobs/")); got > 2 {
				t.Errorf("got %d requests for blobs, want one of each: it is not tried again", got)
			}
		}
	}
}

// R19: a loop of redirects ends.
func TestRedirectLoop(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("loop", 1<<10)
	authority := registrytest.NewAuthority(t)
	server := registrytest.Serve(t, authority.Server(t), only("/blobs/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	}, registrytest.Registry{Image: image}))
	err := pull(t.Context(), newEndpoint(t, server.Host, login(), trusting(authority)), "app", image)
	wantError(t, err, "stopped after 10 redirects")
	if got := len(server.Lines("/blobs/")); got != 10 {
		t.Errorf("got %d requests, want 10", got)
	}
}

// Where a redirect leads to may be down: the error names that host, and the registry itself is not taken for down.
func TestRedirectToHostThatIsDown(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("down", 1<<10)
	authority := registrytest.NewAuthority(t)
	gone := closedPort(t)
	server := registrytest.Serve(t, authority.Server(t), registrytest.Redirect("/blobs/", "https://"+gone, "?signed=presigned", registrytest.Registry{Image: image}))
	e := newEndpoint(t, server.Host, login(), trusting(authority))
	err := pull(t.Context(), e, "app", image)
	wantError(t, err, gone+": connection refused", server.Host)
	if strings.Contains(err.Error(), "presigned") {
		t.Errorf("the error quotes the query: %v", err)
	}
	if _, down := e.Down(); down {
		t.Error("the registry is taken for down, and only the host that it redirects to is")
	}
}

// closedPort is an address on which nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
