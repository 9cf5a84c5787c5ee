// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// basicAnn is ann's password as basic authentication sends it.
const basicAnn = "YW5uOnMzY3JldA=="

// TestRedirects: a redirect to another host is followed, and nothing of the credential goes along (SEC-05); one to
// plain HTTP is refused (SEC-04).
func TestRedirects(t *testing.T) {
	daemon.RequireRoot(t)
	storage := t.TempDir()
	ca, err := registry.NewCA("one authority")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, wantErr string
		elsewhere     registry.Options
	}{
		{"another host", "", registry.Options{CA: ca}},
		{"a host that asks for a credential", "401 Unauthorized", registry.Options{CA: ca, Users: ann}},
		{"plain HTTP", "refusing redirect to http://", registry.Options{Plain: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.elsewhere.Storage = storage
			elsewhere := registry.Start(t, tc.elsewhere)
			r := registry.Start(t, registry.Options{
				CA: ca, Users: ann, Storage: storage, Middleware: registry.On("GET", "*/blobs/*", -1, registry.Redirect(elsewhere.URL())),
			})
			img := image.Small("linux/amd64", 140)
			img.Push(t, r, "p/quay.io/a:1")
			n := startNode(t, entry(t, r, "p", login("ann", "s3cret")), daemon.Options{})
			err := pullCtr(t, n.Daemon, "quay.io/a:1")
			if tc.wantErr != "" {
				wantError(t, err, tc.wantErr)
			} else if err != nil {
				t.Fatal(err)
			} else if err := img.Compare(n.Rootfs(t, "default", "quay.io/a:1")); err != nil {
				t.Error(err)
			}
			requests := elsewhere.Log.Requests()
			if len(requests) == 0 && !tc.elsewhere.Plain {
				t.Error("got no request of the other host, want the redirect followed")
			}
			if tc.elsewhere.Plain && elsewhere.Log.Counts().Conns != 0 {
				t.Errorf("got %d connections to the plain host, want none", elsewhere.Log.Counts().Conns)
			}
			for _, req := range requests {
				raw := strings.ToLower(string(req.Raw))
				if strings.Contains(raw, "authorization") || strings.Contains(raw, "cookie") || strings.Contains(raw, strings.ToLower(basicAnn)) {
					t.Errorf("got request\n%s\nwant nothing of the credential", req.Raw)
				}
			}
		})
	}
}

// TestTokenRealms: the credential goes to no token server but the registry's own host and those that were named
// (SEC-01, SEC-02).
func TestTokenRealms(t *testing.T) {
	daemon.RequireRoot(t)
	scopes := map[string]registry.User{"ann": {Password: "s3cret", Scopes: []string{"repository:*:pull"}}}
	for _, tc := range []struct{ name, realm, lines, wantErr string }{
		{"own host, other port", "", "", ""}, // of the test's token server: 127.0.0.1 too
		{"plain HTTP", "http://EVIL/token", "", "plain http"},
		{"address", "https://127.0.0.9:PORT/token", "", "an address that is not the registry's; add it to token_realms to allow it"},
		{"name of this machine", "https://evil.test:PORT/token", "", "it resolves to the local address; add it to token_realms to allow it"},
		{"name that is allowed", "https://evil.test:PORT/token", `token_realms = ["evil.test"]`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ca, err := registry.NewCA("one authority")
			if err != nil {
				t.Fatal(err)
			}
			tokens := &registry.Tokens{Users: scopes, Elsewhere: tc.realm == ""}
			log := &registry.Log{}
			// The other host issues tokens that are good: what keeps the credential from it is Berth alone.
			evil := registry.Start(t, registry.Options{
				CA: ca, Addr: "127.0.0.9:0", Names: []string{"evil.test", "127.0.0.9"}, Log: log,
				Plain: strings.HasPrefix(tc.realm, "http://"),
				Middleware: func(http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tokens.ServeHTTP(w, r) })
				},
			})
			_, port, _ := strings.Cut(evil.Host(), ":")
			tokens.Realm = strings.NewReplacer("EVIL", evil.Host(), "PORT", port).Replace(tc.realm)
			r := registry.Start(t, registry.Options{CA: ca, Tokens: tokens})
			image.Small("linux/amd64", 141).Push(t, r, "p/quay.io/a:1")
			n := startNode(t, entry(t, r, "p", login("ann", "s3cret"), tc.lines), daemon.Options{Hosts: map[string]string{"evil.test": "127.0.0.9"}})
			err = pullCtr(t, n.Daemon, "quay.io/a:1")
			if tc.wantErr == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, "token realm ", " refused for "+r.Host()+": ", tc.wantErr)
			if got := log.Requests(); len(got) != 0 {
				t.Errorf("got requests %v of the token server, want none", got)
			}
		})
	}
}

// TestPullSecrets: what a pod brings goes to the registry that the reference names, and never to a rewritten target;
// a node's credential never goes to the named registry (SEC-07, C16).
func TestPullSecrets(t *testing.T) {
	daemon.RequireRoot(t)
	named := registry.Start(t, registry.Options{Users: map[string]string{"pod": "p0d-s3cret"}})
	target := registry.Start(t, registry.Options{Users: ann})
	img, other := image.Small("linux/amd64", 142), image.Small("linux/amd64", 143)
	img.Push(t, target, "p/named/a:1")
	other.Push(t, named, "only/here:1")
	hosts := t.TempDir()
	registry.WriteHosts(t, hosts, named.Host(), named.Mirror(t))
	n := startNode(t, entry(t, target, "p", login("ann", "s3cret"))+
		rule(named.Host(), target.Host()+"/p/named")+rule(named.Host()+"/only", target.Host()+"/p/only", "source"),
		daemon.Options{CRI: true, Config: criHosts(hosts)})
	for _, auth := range []*cri.AuthConfig{
		{Username: "pod", Password: "p0d-s3cret"},
		{Username: "pod", Password: "p0d-s3cret", ServerAddress: "https://" + named.Host()},
		{Auth: "cG9kOnAwZC1zM2NyZXQ="},
	} {
		t.Run(fmt.Sprintf("server address %q, auth %q", auth.ServerAddress, auth.Auth), func(t *testing.T) {
			named.Log.Reset()
			target.Log.Reset()
			if err := pullCRIAs(t, n.Daemon, named.Host()+"/a:1", auth); err != nil {
				t.Error(err)
			}
			if got := named.Log.Requests(); len(got) != 0 {
				t.Errorf("got requests %v of the named registry, want none", got)
			}
			if err := pullCRIAs(t, n.Daemon, named.Host()+"/only/here:1", auth); err != nil {
				t.Error(err)
			}
			if len(named.Log.Containing("cG9kOnAwZC1zM2NyZXQ=")) == 0 {
				t.Errorf("got no pod's secret at the named registry, want it there:\n%s", named.Log.Lines())
			}
			if got := target.Log.Containing("cG9kOnAwZC1zM2NyZXQ="); len(got) != 0 {
				t.Errorf("got the pod's secret in requests %v of the target", got)
			}
			if got := named.Log.Containing(basicAnn); len(got) != 0 {
				t.Errorf("got the node's credential in requests %v of the named registry", got)
			}
			images, _ := n.CRI(t)
			for _, ref := range []string{"/a:1", "/only/here:1"} {
				if _, err := images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: named.Host() + ref}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestPodSecretsAreNotShared: a registry that is configured without a credential gets that of the pod, and a token that
// one pod's secret bought is of no use to another.
func TestPodSecretsAreNotShared(t *testing.T) {
	daemon.RequireRoot(t)
	for _, kind := range registries {
		t.Run(kind.name, func(t *testing.T) {
			r := registry.Start(t, kind.opts())
			image.Small("linux/amd64", 144).Push(t, r, "internal/quay.io/a:1")
			n := startNode(t, entry(t, r, "internal"), daemon.Options{CRI: true})
			ref := r.Host() + "/internal/quay.io/a:1"
			for i, tc := range []struct {
				auth    *cri.AuthConfig
				wantErr string
			}{
				{nil, "unauthorized"},
				{&cri.AuthConfig{Username: "ann", Password: "s3cret"}, ""},
				{nil, "unauthorized"},
				{&cri.AuthConfig{Username: "ann", Password: "wrong"}, "unauthorized"},
				{&cri.AuthConfig{Username: "ann", Password: "s3cret"}, ""},
			} {
				err := pullCRIAs(t, n.Daemon, ref, tc.auth)
				if tc.wantErr != "" {
					wantError(t, err, tc.wantErr)
				} else if err != nil {
					t.Errorf("pull %d: %v", i, err)
				}
				// A rewritten name goes there too, and never with what a pod brings.
				wantError(t, pullCRIAs(t, n.Daemon, "quay.io/a:1", tc.auth), "unauthorized")
			}
		})
	}
}

// TestLongestDomain has two registries on one host, of which each gets its own credential.
func TestLongestDomain(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: map[string]string{"ann": "s3cret", "bob": "pa55"}})
	for i, path := range []string{"p/a:1", "p/inner/b:1"} {
		image.Small("linux/amd64", uint64(146+2*i)).Push(t, r, path)
	}
	n := startNode(t, entry(t, r, "p", login("ann", "s3cret"))+entry(t, r, "p/inner", login("bob", "pa55"))+
		rule("a.test", r.Host()+"/p")+rule("b.test", r.Host()+"/p/inner"), daemon.Options{})
	for ref, want := range map[string]string{"a.test/a:1": basicAnn, "b.test/b:1": "Ym9iOnBhNTU="} {
		r.Log.Reset()
		if err := pullCtr(t, n.Daemon, ref); err != nil {
			t.Error(err)
		}
		for _, req := range r.Log.Requests() {
			if req.Auth != "" && !strings.Contains(string(req.Raw), want) {
				t.Errorf("%s: got request\n%s\nwant the credential %s", ref, req.Raw, want)
			}
		}
		if len(r.Log.Containing(want)) == 0 {
			t.Errorf("%s: got no request with the credential %s", ref, want)
		}
	}
}
