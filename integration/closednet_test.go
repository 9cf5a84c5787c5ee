// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestNothingElseIsAsked runs the daemon in a network namespace in which every name leads to listeners that note who
// comes: with a rule for everything, or a denial, nothing but the registry is asked, whatever the reference, whether
// the pull succeeds or fails (SEC-34). With nothing configured the same references lead there.
func TestNothingElseIsAsked(t *testing.T) {
	daemon.RequireRoot(t)
	network := newNetwork(t)
	network.dns(t, "127.0.0.53", "127.0.2.1")
	for _, port := range []string{"443", "80"} {
		network.watch(t, "127.0.2.1:"+port)
	}
	r := registry.Start(t, registry.Options{Listener: network.listen(t, "127.0.3.1:5000"), Names: []string{"127.0.3.1"}})
	image.Small("linux/amd64", 170).Push(t, r, "p/quay.io/a/b:1")
	resolvConf := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, resolvConf, "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n")
	n := newNode(t, "", daemon.Options{CRI: true, Setup: network.enter(resolvConf)})

	const good = "quay.io/a/b:1"
	refs := []string{good, "quay.io/a/none:1", "nginx", "docker.io/library/nginx", "registry.k8s.io/pause:3.10", "ghcr.io/x/y@sha256:" + strings.Repeat("1", 64)}
	everything := entry(t, r, "p")
	for _, tc := range []struct {
		name, config string
		good         bool
	}{
		{"implied rule", everything, true},
		{"rule for *", everything + rule("*", r.Host()+"/p") + "path = \"full\"\n", true},
		{"denied", everything + "[[rules]]\nfrom = \"*\"\ndeny = true\n", false},
		{"cannot be used", everything + "x = 1\n", false},
		{"registry that is gone", strings.ReplaceAll(everything, ":5000", ":5001"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n.configure(t, "registry.toml", tc.config)
			n.Restart(t, nil)
			network.asked()
			for _, ref := range refs {
				for _, c := range clients {
					err := c.pull(t, n.Daemon, ref)
					if want := tc.good && ref == good; (err == nil) != want {
						t.Errorf("%s of %s: got %v, want success: %t", c.name, ref, err, want)
					}
				}
			}
			if got := network.asked(); got != "" {
				t.Errorf("got\n%s\nwant no query of a name and no other connection", got)
			}
		})
	}
	t.Run("nothing configured", func(t *testing.T) {
		write(t, n.etc+"/registry.toml", "")
		n.Restart(t, nil)
		_ = pullCtr(t, n.Daemon, good)
		if got := network.asked(); !strings.Contains(got, "A quay.io.") || !strings.Contains(got, "127.0.2.1:443") {
			t.Errorf("got %q, want a query and a connection: the network sees nothing", got)
		}
	})

	// A pod's author chooses references, and cannot leave the rule's target with them (SEC-37).
	n.configure(t, "registry.toml", everything)
	n.Restart(t, nil)
	network.asked()
	r.Log.Reset()
	for _, ref := range []string{
		"quay.io/../../secret:1", "quay.io/a/../../secret:1", "quay.io/./a:1", "quay.io//a:1", "/a:1", "quay.io/a/:1",
		"quay.io/%2e%2e/secret:1", "quay.io/a%2f..%2fsecret:1", "quay.io/a?x=y", "quay.io/a#frag", "quay.io/a:1?x", "quay.io/a\\b:1",
		"user:pw@quay.io/a:1", "evil.test@quay.io/a:1", "quay.io:443@evil.test/a:1", "https://evil.test/a:1", "quay.io/Upper:1",
		"quay.io:0/a:1", "quay.io:70000/a:1", "quay.io:x/a:1", "[::1]:5000/a:1", "quay.io/a:1 ", " quay.io/a:1", "quay.io/a:1\n", "quay.io/a:" + strings.Repeat("x", 129),
		"quay.io/" + strings.Repeat("a/", 130) + "a:1", "quay.io/a@sha256:12", "quay.io/a@md5:d41d8cd98f00b204e9800998ecf8427e",
		"quay.io/a:1@", "quay.io/a@", "127.0.3.1:5000/secret:1", "127.0.3.1:5000/pp/a:1",
	} {
		for _, c := range clients {
			if err := c.pull(t, n.Daemon, ref); err == nil {
				t.Errorf("%s of %q: got no error", c.name, ref)
			}
		}
	}
	for _, req := range r.Log.Requests() {
		path := strings.TrimPrefix(req.Path, "/v2/p/")
		if path == req.Path || strings.Contains(path, "..") || strings.Contains(path, "//") || strings.Contains(path, "%") || len(req.Query) > 0 {
			t.Errorf("got request %s, want only ones of plain paths below /v2/p/", req)
		}
	}
	if got := network.asked(); got != "" {
		t.Errorf("got\n%s\nwant no query of a name and no other connection", got)
	}
}
