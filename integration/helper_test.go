// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// program writes an executable that writes down what it was asked, a line each, and then answers. It returns what counts
// these lines.
func program(t testing.TB, path, answer string) (asked func() []string) {
	t.Helper()
	script := fmt.Sprintf("#!/bin/sh\n{ cat; echo; } >> %[1]s.asked\ncat <<'END'\n%[2]s\nEND\n", path, answer)
	write(t, path, script)
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return func() []string {
		text, err := os.ReadFile(path + ".asked")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}

// TestCredentialHelpers pulls with a docker config, a docker credential helper and a credential provider of kubelet's, from
// registries with passwords and with tokens. No secret of theirs is in the log at trace level, nor on disk (SEC-08, SEC-14).
func TestCredentialHelpers(t *testing.T) {
	daemon.RequireRoot(t)
	const fromConfig, fromHelper, fromProvider, fromEnv = "config-Zk3v+7w", "helper-Qp9x:=x", "provider-Lm2n.op", "env-Rt5y-ui"
	for _, kind := range []string{"basic", "tokens"} {
		t.Run(kind, func(t *testing.T) {
			start := func(password string) *registry.Registry {
				if kind == "basic" {
					return registry.Start(t, registry.Options{Users: map[string]string{"u": password}})
				}
				return registry.Start(t, registry.Options{Tokens: &registry.Tokens{Users: map[string]registry.User{"u": {Password: password, Scopes: []string{"repository:*:pull"}}}}})
			}
			byConfig, byHelper, byProvider := start(fromConfig), start(fromHelper), start(fromProvider)
			for i, r := range []*registry.Registry{byConfig, byHelper, byProvider} {
				image.Small("linux/amd64", uint64(600+10*i)).Push(t, r, "p/a:1")
				image.Small("linux/amd64", uint64(602+10*i)).Push(t, r, "p/b:1")
			}
			dir := t.TempDir()
			write(t, dir+"/config.json", fmt.Sprintf(`{"auths":{"https://%s/v2/":{"auth":%q}}}`, byConfig.Host(), base64.StdEncoding.EncodeToString([]byte("u:"+fromConfig))))
			helperAsked := program(t, dir+"/docker-credential-test", fmt.Sprintf(`{"ServerURL":%q,"Username":"u","Secret":%q}`, byHelper.Host(), fromHelper))
			providerAsked := program(t, dir+"/test-provider", fmt.Sprintf(`{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"1h","auth":{%q:{"username":"u","password":%q}}}`, byProvider.Host(), fromProvider))
			n := startNode(t, entry(t, byConfig, "", fmt.Sprintf("docker_config = %q", dir+"/config.json"))+
				entry(t, byHelper, "", `credential_helper = "test"`, fmt.Sprintf("helper_dirs = [%q]", dir))+
				entry(t, byProvider, "", fmt.Sprintf(`credential_provider = { name = "test-provider", env = { CANARY = %q } }`, fromEnv), fmt.Sprintf("helper_dirs = [%q]", dir))+
				rule("config.test", byConfig.Host()+"/p")+rule("helper.test", byHelper.Host()+"/p")+rule("provider.test", byProvider.Host()+"/p"),
				daemon.Options{CRI: true, Level: "trace"})
			for _, host := range []string{"config.test", "helper.test", "provider.test"} {
				for name, pull := range map[string]func(testing.TB, *daemon.Daemon, string) error{"a:1": pullCtr, "b:1": pullCRI} {
					if err := pull(t, n.Daemon, host+"/"+name); err != nil {
						t.Errorf("%s/%s: %v", host, name, err)
					}
				}
			}
			if got, want := helperAsked(), []string{byHelper.Host()}; !slices.Equal(got, want) {
				t.Errorf("got the helper asked for %q, want %q, once", got, want)
			}
			if got := providerAsked(); len(got) != 1 || !strings.Contains(got[0], fmt.Sprintf(`"image":"%s/p/`, byProvider.Host())) {
				t.Errorf("got the provider asked %q, want it once for the rewritten image", got)
			}
			h := haystack{"log": n.Log.String(), "files": files(t, n.Root)}
			for _, secret := range []string{fromConfig, fromHelper, fromProvider, fromEnv} {
				for _, found := range h.find(append(formsOf("u", secret), hex.EncodeToString([]byte("u:"+secret)))...) {
					t.Error(found)
				}
			}
		})
	}
}

// TestCredentialHelperFails: a helper that is missing or fails ends the pulls of its registry with an error that names it
// (C1, C4), and those of no other; once it is mended they succeed without a restart.
func TestCredentialHelperFails(t *testing.T) {
	r, other := registry.Start(t, registry.Options{Users: ann}), registry.Start(t, registry.Options{})
	image.Small("linux/amd64", 640).Push(t, r, "p/a:1")
	image.Small("linux/amd64", 642).Push(t, other, "p/b:1")
	dir := t.TempDir()
	n := startNode(t, entry(t, r, "", `credential_helper = "test"`, fmt.Sprintf("helper_dirs = [%q]", dir))+entry(t, other, "")+
		rule("helper.test", r.Host()+"/p", other.Host()+"/p")+rule("other.test", other.Host()+"/p"), daemon.Options{})
	if stdout, stderr, status := berth(t, "config", "check", "--config", n.ConfigFile()); status != 0 || !strings.Contains(stderr, `credential_helper: "docker-credential-test": not found in `+dir) {
		t.Errorf("got check %s%s (%d), want a warning of the helper", stdout, stderr, status)
	}
	wantError(t, pullCtr(t, n.Daemon, "helper.test/a:1"), `helper "docker-credential-test": not found in `+dir)
	if err := pullCtr(t, n.Daemon, "other.test/b:1"); err != nil {
		t.Errorf("of another registry: %v", err)
	}
	program(t, filepath.Join(dir, "docker-credential-test"), "s3cret; exit 1")
	within(t, 10*time.Second, "other error", func() bool {
		err := pullCtr(t, n.Daemon, "helper.test/a:1")
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Fatalf("got %v, want an error without a secret", err)
		}
		return strings.Contains(err.Error(), `helper "docker-credential-test": answer: is not a JSON object`)
	})
	program(t, filepath.Join(dir, "docker-credential-test"), `{"Username":"ann","Secret":"s3cret"}`)
	within(t, 10*time.Second, "pull", func() bool { return pullCtr(t, n.Daemon, "helper.test/a:1") == nil })
	if got := other.Log.Match("", "/v2/p/a/*"); len(got) > 0 {
		t.Errorf("got requests %v of the next target, want none: the credential could not be obtained", got)
	}
}

// TestPasswordFileRotates: a password file is read when it has changed, without a reload, and a new password is tried at once
// though the old one was refused (C13); what it held before is used while it cannot be (C14), which the status says. One that is wrong is not followed by the one before.
func TestPasswordFileRotates(t *testing.T) {
	r := registry.Start(t, registry.Options{Users: ann})
	for i, name := range []string{"a:1", "b:1", "c:1"} {
		small(uint64(650+2*i)).Push(t, r, "p/quay.io/"+name)
	}
	file := t.TempDir() + "/password"
	write(t, file, "wrong-s3cret\n")
	n := startNode(t, entry(t, r, "p", `username = "ann"`, fmt.Sprintf("password_file = %q", file)), daemon.Options{})
	start := time.Now()
	for range 5 {
		wantError(t, pullCtr(t, n.Daemon, "quay.io/a:1"), "unauthorized: ", "the credential was refused")
	}
	wrong := base64.StdEncoding.EncodeToString([]byte("ann:wrong-s3cret"))
	if got, most := len(r.Log.Containing(wrong)), 1+int(time.Since(start)/(5*time.Second)); got > most {
		t.Errorf("got %d requests with a wrong password, want %d", got, most)
	}
	write(t, file+".new", "s3cret\n")
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	if err := pullCtr(t, n.Daemon, "quay.io/a:1"); err != nil {
		t.Errorf("with the right password: %v", err)
	}
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	if err := pullCtr(t, n.Daemon, "quay.io/b:1"); err != nil {
		t.Errorf("with an empty file: %v", err)
	}
	out, _, code := berth(t, "status", "--address", n.Address)
	if code != 1 || !strings.Contains(out, "the credential of "+r.Host()+"/p cannot be used since ") || !strings.Contains(out, "  error: password_file: "+file+": is empty") {
		t.Errorf("got status %d\n%s\nwant what is wrong with the file", code, out)
	}
	write(t, file, "wrong-s3cret\n")
	wantError(t, pullCtr(t, n.Daemon, "quay.io/c:1"), "unauthorized: ")
	if out, _, code := berth(t, "status", "--address", n.Address); code != 0 || strings.Contains(out, "password_file") {
		t.Errorf("got status %d\n%s\nwant nothing of a file that can be used", code, out)
	}
}

// TestProviderBesideExternal: several registries, with and without credentials, reached by rewriting and under their own
// names; several paths of one host have different credentials. Each gets its own, and no other's.
func TestProviderBesideExternal(t *testing.T) {
	daemon.RequireRoot(t)
	external := registry.Start(t, registry.Options{Users: ann})
	provider := registry.Start(t, registry.Options{Users: map[string]string{"bob": "pa55"}})
	scoped := registry.Start(t, registry.Options{Tokens: &registry.Tokens{Users: map[string]registry.User{
		"eve": {Password: "eve-pass", Scopes: []string{"repository:team/eve/*:pull"}},
		"joe": {Password: "joe-pass", Scopes: []string{"repository:team/joe/*:pull"}},
	}, Anyone: []string{"repository:open/*:pull"}}})
	public := registry.Start(t, registry.Options{})
	dir := t.TempDir()
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	write(t, dir+"/auth.json", fmt.Sprintf(`{"auths":{"%[1]s/team/eve":{"auth":%[2]q},"%[1]s/team/joe":{"auth":%[3]q}}}`, scoped.Host(), b64("eve:eve-pass"), b64("joe:joe-pass")))
	for i, image := range []struct {
		r    *registry.Registry
		name string
	}{{external, "e/quay.io/a:1"}, {provider, "own/b:1"}, {provider, "rewritten/c:1"}, {scoped, "team/eve/d:1"}, {scoped, "team/joe/e:1"}, {scoped, "open/f:1"}, {public, "g:1"}} {
		small(uint64(660+2*i)).Push(t, image.r, image.name)
	}
	n := startNode(t, entry(t, external, "e", login("ann", "s3cret"))+
		entry(t, provider, "", login("bob", "pa55"))+
		entry(t, scoped, "", fmt.Sprintf("docker_config = %q", dir+"/auth.json"))+
		entry(t, public, "")+
		rule("*", external.Host()+"/e")+
		rule("rewritten.test", provider.Host()+"/rewritten")+
		rule(provider.Host()+"/own", "source")+rule("eve.test", scoped.Host()+"/team/eve"), daemon.Options{})
	secrets := map[*registry.Registry][]string{external: {basicAnn}, provider: {b64("bob:pa55")}, scoped: {b64("eve:eve-pass"), b64("joe:joe-pass")}, public: nil}
	for range 2 { // cold, and with what was learnt
		for _, ref := range []string{
			"quay.io/a:1", provider.Host() + "/own/b:1", "rewritten.test/c:1", "eve.test/d:1", scoped.Host() + "/team/joe/e:1",
			scoped.Host() + "/open/f:1", public.Host() + "/g:1",
		} {
			if err := pullCtr(t, n.Daemon, ref); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		}
	}
	for r, own := range secrets {
		for other, theirs := range secrets {
			for _, secret := range theirs {
				if got := r.Log.Containing(secret); (len(got) > 0) != (r == other) {
					t.Errorf("%s: got %d requests with %s, want some: %t", r.Host(), len(got), secret, r == other)
				}
			}
		}
		if len(own) == 0 && len(r.Log.Containing("Authorization")) > 0 {
			t.Errorf("%s: got requests with a credential, want none", r.Host())
		}
	}
	wantError(t, pullCtr(t, n.Daemon, scoped.Host()+"/team/nobody/h:1"), "unauthorized")
}

// TestShortTokens pulls an image of many layers slowly from a registry whose tokens live for two seconds.
func TestShortTokens(t *testing.T) {
	r := registry.Start(t, registry.Options{
		Tokens: &registry.Tokens{Expiry: 2 * time.Second, Users: map[string]registry.User{"ann": {Password: "s3cret", Scopes: []string{"repository:*:pull"}}}},
		Middleware: registry.On("GET", "*/blobs/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			time.Sleep(700 * time.Millisecond)
			next.ServeHTTP(w, r)
		}),
	})
	var layers []image.Layer
	for i := range 20 {
		layers = append(layers, image.NewLayer(image.Random(fmt.Sprint("file", i), 700+uint64(i), 20_000)))
	}
	many := image.New(image.Config{Layers: layers})
	many.Push(t, r, "p/quay.io/a:1")
	n := startNode(t, entry(t, r, "p", login("ann", "s3cret")), daemon.Options{})
	if err := pullCtr(t, n.Daemon, "quay.io/a:1"); err != nil {
		t.Fatalf("%v\n%s", err, r.Log.Lines())
	}
	if err := many.Compare(n.Rootfs(t, "default", "quay.io/a:1")); err != nil {
		t.Error(err)
	}
	if got := len(r.Log.Match("GET", "/token*")); got < 2 {
		t.Errorf("got %d tokens, want more than one:\n%s", got, r.Log.Lines())
	}
}

func small(seed uint64) *image.Image { return image.Small("linux/amd64", seed) }
