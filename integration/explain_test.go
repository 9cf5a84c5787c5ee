// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/registry"
)

// route is what `berth explain --output json` prints of one reference.
type route struct {
	Ref, Named, Rule, Error string
	Targets                 []struct{ Kind, Pull, Registry, Credential, TLS string }
}

func explain(t *testing.T, config, ref string) route {
	t.Helper()
	out, problems, code := berth(t, "explain", "--output", "json", "--config", config, ref)
	var routes []route
	if err := json.Unmarshal([]byte(out), &routes); err != nil || len(routes) != 1 {
		t.Fatalf("explain %s: got %q %q %v, want an array of one route", ref, out, problems, err)
	}
	if want := map[bool]int{true: 0, false: 1}[routes[0].Error == ""]; code != want {
		t.Errorf("explain %s: got exit status %d, want %d", ref, code, want)
	}
	return routes[0]
}

// vectorHosts are the addresses of every host of the vectors, and of the cases below.
var vectorHosts = map[string]string{
	"targetdomain.com": "127.0.1.1", "r.example.com": "127.0.1.2", "gcr.io": "127.0.1.3", "example.com": "127.0.1.4",
	"r.example.net": "127.0.1.5", "a.example.com": "127.0.1.6", "b.example.com": "127.0.1.7", "ghcr.io": "127.0.1.8",
	"quay.io": "127.0.1.9", "us.gcr.io": "127.0.1.10", "somedomain.com": "127.0.1.11", "us-docker.pkg.dev": "127.0.1.12",
	"registry-1.docker.io": "127.0.1.13", "c.example.com": "127.0.1.14",
}

// TestExplainIsWhatPullsDo pulls every vector, with the registries of all hosts recording what they are asked, and
// compares the order of requests with what `berth explain` prints. No registry has anything, so that every target of
// a route is tried.
func TestExplainIsWhatPullsDo(t *testing.T) {
	daemon.RequireRoot(t)
	text, err := os.ReadFile("../resolver/testdata/rewrite.json")
	if err != nil {
		t.Fatal(err)
	}
	type vector struct {
		Name, Config, Ref, Error string
		Pull                     []string
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) < 21 {
		t.Fatalf("got %d vectors %v, want 21 or more", len(vectors), err)
	}
	const three = "[[registries]]\ndomain=\"a.example.com\"\n[[registries]]\ndomain=\"b.example.com/two\"\n"
	vectors = append(vectors,
		vector{Name: "three targets, source in the middle", Config: three + rule("quay.io", "b.example.com/two", "source", "a.example.com/one"),
			Ref: "quay.io/x/y:1", Pull: []string{"b.example.com/two/x/y:1", "quay.io/x/y:1", "a.example.com/one/x/y:1"}},
		vector{Name: "three targets, the last not configured", Config: three + rule("*", "a.example.com/one", "b.example.com/two", "c.example.com"),
			Ref: "nginx:1", Pull: []string{"a.example.com/one/library/nginx:1", "b.example.com/two/library/nginx:1", "c.example.com/library/nginx:1"}},
	)
	// A rule for * that says how a name is put after its targets.
	vectors[len(vectors)-1].Config += "path = \"rest\"\n"

	ca, err := registry.NewCA("everybody's authority")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range vectorHosts {
		names = append(names, name)
	}
	certPEM, keyPEM, err := ca.Server(append(names, "10.10.254.254", "10.10.137.220")...)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	network, log := newNetwork(t), &registry.Log{}
	addresses := []string{"10.10.254.254:8000", "10.10.137.220:30003", "127.0.1.4:5000"}
	for _, address := range vectorHosts {
		addresses = append(addresses, address+":443")
	}
	server := &http.Server{Handler: log.Handler(http.NotFoundHandler()), TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	t.Cleanup(func() { server.Close() })
	for _, address := range addresses {
		l := network.listen(t, address)
		go func() { _ = server.Serve(tls.NewListener(l, server.TLSConfig)) }()
	}

	resolvConf := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, resolvConf, "nameserver 127.0.0.53\n")
	n := newNode(t, "", daemon.Options{
		Hosts: vectorHosts, Setup: network.enter(resolvConf), CRI: true, Level: "info",
		Env: []string{"SSL_CERT_FILE=" + ca.File(t), "SSL_CERT_DIR=/absent"},
	})
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			n.configure(t, "registry.toml", v.Config)
			n.Restart(t, nil)
			route := explain(t, n.ConfigFile(), v.Ref)
			var want []string
			for _, target := range route.Targets {
				want = append(want, target.Pull)
			}
			if !slices.Equal(want, v.Pull) {
				t.Errorf("explain: got %q, want %q", want, v.Pull)
			}
			for _, c := range clients {
				log.Reset()
				err := c.pull(t, n.Daemon, v.Ref)
				if v.Error != "" {
					wantError(t, err, v.Error)
				} else {
					wantError(t, err, append(slices.Clone(want), "not found")...)
				}
				if got := asked(log); !slices.Equal(got, want) {
					t.Errorf("%s: got requests for %q, want those of explain, %q\n%s", c.name, got, want, log.Lines())
				}
			}
		})
	}
}

// asked returns the references whose manifests were asked for, in order and without repetition.
func asked(log *registry.Log) (refs []string) {
	for _, req := range log.Match("", "/v2/*/manifests/*") {
		repo, tag, _ := strings.Cut(strings.TrimPrefix(req.Path, "/v2/"), "/manifests/")
		separator := ":"
		if strings.Contains(tag, ":") {
			separator = "@"
		}
		host := req.Host
		if name, port, err := net.SplitHostPort(host); err == nil && port == "443" {
			host = name
		}
		ref := host + "/" + repo + separator + tag
		if len(refs) == 0 || refs[len(refs)-1] != ref {
			refs = append(refs, ref)
		}
	}
	return refs
}

// A loader that is disabled offers no bundle.
func TestExplainDisabledLoader(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{})
	l.bundle(t, "a.tar", oneLayer(930, "quay.io/a:1"))
	l.start(t)
	for _, tc := range []struct{ dropIn, first string }{
		{"", "bundle"},
		{fmt.Sprintf("version = 3\ndisabled_plugins = [%q]\n", loaderURI), "source"},
	} {
		l.dropIns["30-none.toml"] = tc.dropIn
		l.Stop(t)
		if err := l.Run(t); err != nil {
			t.Fatal(err)
		}
		if out, problems, _ := berth(t, "explain", "--config", l.ConfigFile(), "quay.io/a:1"); !regexp.MustCompile(`\b1\. +` + tc.first + `\b`).MatchString(out) {
			t.Errorf("got %s\n%s\nwant %s first", out, problems, tc.first)
		}
	}
}
