// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestVerificationIsOn: certificates are verified for names of loopback too, of which stock accepts any (SEC-20); what
// one registry trusts, another does not (SEC-22); nothing is asked over plain HTTP instead (SEC-21).
func TestVerificationIsOn(t *testing.T) {
	daemon.RequireRoot(t)
	ca, err := registry.NewCA("shared authority")
	if err != nil {
		t.Fatal(err)
	}
	first, second := registry.Start(t, registry.Options{CA: ca, Users: ann}), registry.Start(t, registry.Options{CA: ca, Users: ann})
	img := image.Small("linux/amd64", 190)
	img.Push(t, first, "p/a:1")
	img.Push(t, second, "p/a:1")
	_, port, _ := strings.Cut(second.Host(), ":")
	secret := "\n" + login("ann", "s3cret") + "\n"
	n := startNode(t, entry(t, first, "", login("ann", "s3cret"))+
		"[[registries]]\ndomain = \""+second.Host()+"\""+secret+
		"[[registries]]\ndomain = \"localhost:"+port+"\""+secret+
		rule("first.test", first.Host()+"/p")+rule("second.test", second.Host()+"/p")+rule("third.test", "localhost:"+port+"/p"), daemon.Options{})
	if err := pullCtr(t, n.Daemon, "first.test/a:1"); err != nil {
		t.Error(err)
	}
	for _, ref := range []string{"second.test/a:1", "third.test/a:1"} {
		wantError(t, pullCtr(t, n.Daemon, ref), "certificate signed by unknown authority; add its CA to certificates")
	}
	if second.Log.Counts().Hellos < 2 {
		t.Errorf("got %+v, want the registry tried with TLS", second.Log.Counts())
	}
	if got := second.Log.Requests(); len(got) != 0 {
		t.Errorf("got requests %v, want none", got)
	}
}

// TestPlainHTTP: without insecure, a registry that speaks plain HTTP is sent nothing of a credential; with it, it is
// used after the port was seen not to speak TLS, and that is remembered (SEC-21). insecure is warned of at every start,
// is in a metric, and is not another registry's (SEC-26).
func TestPlainHTTP(t *testing.T) {
	daemon.RequireRoot(t)
	plain, strict := registry.Start(t, registry.Options{Plain: true, Users: ann}), registry.Start(t, registry.Options{Users: ann})
	for i, repo := range []string{"p/a:1", "p/b:1"} {
		image.Small("linux/amd64", uint64(192+2*i)).Push(t, plain, repo)
	}
	image.Small("linux/amd64", 192).Push(t, strict, "p/a:1")
	config := func(insecure bool) string {
		return entry(t, plain, "", login("ann", "s3cret"), fmt.Sprintf("insecure = %t", insecure)) +
			"[[registries]]\ndomain = \"" + strict.Host() + "\"\n" + rule("plain.test", plain.Host()+"/p") + rule("strict.test", strict.Host()+"/p")
	}
	n := startNode(t, config(false), daemon.Options{Level: "info"})
	wantError(t, pullCtr(t, n.Daemon, "plain.test/a:1"), "server gave HTTP response to HTTPS client; set insecure = true to allow plain HTTP")
	if got := plain.Log.Requests(); len(got) != 0 {
		t.Errorf("got requests %v without insecure, want none", got)
	}
	if got := n.Metrics(t); strings.Contains(got, "berth_registry_insecure{") {
		t.Errorf("got metrics\n%s\nwant no insecure registry", grep(got, "berth_registry_insecure"))
	}

	n.Restart(t, func(*daemon.Options) { n.configure(t, "registry.toml", config(true)) })
	before := plain.Log.Counts().Conns
	for _, ref := range []string{"plain.test/a:1", "plain.test/b:1"} {
		if err := pullCtr(t, n.Daemon, ref); err != nil {
			t.Error(err)
		}
		if ref == "plain.test/a:1" {
			before = plain.Log.Counts().Conns
		}
	}
	if got := plain.Log.Counts().Conns - before; got != 0 {
		t.Errorf("got %d more connections for the second pull, want it to know that the port is plain, and to reuse one", got)
	}
	wantError(t, pullCtr(t, n.Daemon, "strict.test/a:1"), "certificate signed by unknown authority")
	for range 2 {
		warning := "registry " + plain.Host() + ": insecure = true: its certificate is not checked, and plain HTTP is allowed"
		if got := n.Log.Lines("level=warning", warning); len(got) == 0 {
			t.Error("got no warning of insecure = true")
		}
		want := fmt.Sprintf("berth_registry_insecure{registry=%q} 1\n", plain.Host())
		if got := grep(n.Metrics(t), "berth_registry_insecure{"); got != want {
			t.Errorf("got metrics %q, want %q", got, want)
		}
		n.Restart(t, nil)
	}
	if got := n.Log.Lines("level=warning", "insecure = true"); len(got) != 3 {
		t.Errorf("got %d warnings of insecure, want one at each of 3 starts", len(got))
	}
}

// TestNeverBackToHTTP: a port that spoke TLS once is not taken for plain HTTP later, insecure or not.
func TestNeverBackToHTTP(t *testing.T) {
	daemon.RequireRoot(t)
	storage := t.TempDir()
	secure := registry.Start(t, registry.Options{Users: ann, Storage: storage})
	for i, repo := range []string{"p/quay.io/a:1", "p/quay.io/b:1"} {
		image.Small("linux/amd64", uint64(194+2*i)).Push(t, secure, repo)
	}
	n := startNode(t, fmt.Sprintf("[[registries]]\ndomain = %q\ninsecure = true\n%s\n", secure.Host()+"/p", login("ann", "s3cret")), daemon.Options{})
	if err := pullCtr(t, n.Daemon, "quay.io/a:1"); err != nil {
		t.Fatal(err)
	}
	address := secure.Host()
	secure.Stop()
	plain := registry.Start(t, registry.Options{Users: ann, Storage: storage, Plain: true, Addr: address})
	wantError(t, pullCtr(t, n.Daemon, "quay.io/b:1"), "from "+address+"/p/quay.io/b:1: ")
	if got := plain.Log.Requests(); len(got) != 0 {
		t.Errorf("got requests %v over plain HTTP, want none", got)
	}
}
