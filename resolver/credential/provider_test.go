// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/credential/helpertest"
)

// response is one of a provider's.
func response(keyType, rest string) string {
	return fmt.Sprintf(`{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":%q,%s}`, keyType, rest)
}

const (
	forHost  = `"cacheDuration":"1h0m0s","auth":{"${HOST}":{"username":"u","password":"hunter2"}}`
	forImage = `"cacheDuration":"1h0m0s","auth":{"${IMAGE}":{"username":"${IMAGE}","password":"hunter2"}}`
)

func provider(t testing.TB, s helpertest.Script, p credential.Provider) (helpertest.Helper, credential.Source) {
	t.Helper()
	dir := t.TempDir()
	p.Program = "test-credential-provider"
	return helpertest.Install(t, dir, p.Program, s), credential.Source{Provider: p, HelperDirs: dir}
}

// The request is kubelet's; args and env are what was configured.
func TestProvider(t *testing.T) {
	h, source := provider(t, helpertest.Script{Stdout: response("Registry", forHost)}, credential.Provider{
		Args: credential.List("get-credentials", "--v=3"), Env: credential.Secret(credential.List("AWS_PROFILE=canary", "EMPTY=")),
	})
	if got, err := ask(t, source.Keychain(), "reg.test/team/app"); err != nil || got != "u:hunter2" {
		t.Fatalf("got %s, %v", got, err)
	}
	run := h.Runs(t)[0]
	if want := `{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"reg.test/team/app","kind":"CredentialProviderRequest"}`; run.Stdin != want {
		t.Errorf("got request %s, want %s", run.Stdin, want)
	}
	if want := []string{"get-credentials", "--v=3"}; !slices.Equal(run.Args, want) {
		t.Errorf("got arguments %q, want %q", run.Args, want)
	}
	if !slices.Contains(run.Env, "AWS_PROFILE=canary") || !slices.Contains(run.Env, "EMPTY=") {
		t.Errorf("got environment %q, want what was configured in it", run.Env)
	}
	if got, want := source.Kind(), "helper:test-credential-provider"; got != want {
		t.Errorf("got kind %s, want %s", got, want)
	}
	source.Provider.Program = h.Path
	if got, err := ask(t, source.Keychain(), "reg.test/app"); err != nil || got != "u:hunter2" {
		t.Errorf("by its path: got %s, %v", got, err)
	}
	source.Provider.Program = h.Path + "-absent"
	_, err := ask(t, source.Keychain(), "reg.test/app")
	wantUnavailable(t, err, `helper "test-credential-provider-absent": `, "no such file")
}

// C8: how often a provider runs in a storm of pulls follows from what it says its answers are for.
func TestProviderInAStorm(t *testing.T) {
	for _, tt := range []struct {
		name, stdout string
		hosts, want  int
	}{
		{"per image", response("Image", forImage), 1, 10},
		{"per registry", response("Registry", forHost), 1, 1},
		{"per registry, of two", response("Registry", forHost), 2, 2},
		{"for all", response("Global", `"cacheDuration":"1h","auth":{"*.test":{"username":"u","password":"hunter2"}}`), 1, 1},
		{"for all, of two registries", response("Global", `"cacheDuration":"1h","auth":{"*.test":{"username":"u","password":"hunter2"}}`), 2, 2},
		{"per registry, nothing kept", response("Registry", strings.Replace(forHost, "1h0m0s", "0s", 1)), 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, source := provider(t, helpertest.Script{Stdout: tt.stdout, Sleep: 300 * time.Millisecond}, credential.Provider{})
			k := source.Keychain()
			var pulls sync.WaitGroup
			for i := range 100 {
				image := fmt.Sprintf("reg%d.test/app%d", i%tt.hosts, i%10)
				pulls.Go(func() {
					got, err := ask(t, k, image)
					if err != nil || got != "u:hunter2" && got != image+":hunter2" {
						t.Errorf("%s: got %s, %v", image, got, err)
					}
				})
			}
			pulls.Wait()
			if got := len(h.Runs(t)); got != tt.want {
				t.Errorf("got %d runs, want %d", got, tt.want)
			}
		})
	}
}

// SEC-11: no more than four run at once for one registry.
func TestProvidersAtOnce(t *testing.T) {
	t.Parallel()
	h, source := provider(t, helpertest.Script{Stdout: response("Image", forImage), Sleep: 300 * time.Millisecond}, credential.Provider{})
	k := source.Keychain()
	start := time.Now()
	var pulls sync.WaitGroup
	for i := range 13 {
		pulls.Go(func() {
			if _, err := ask(t, k, fmt.Sprintf("reg.test/app%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	pulls.Wait()
	// The first by itself, since it is not known yet what its answer is for, and then three times four.
	if took := time.Since(start); took < 4*300*time.Millisecond || len(h.Runs(t)) != 13 {
		t.Errorf("got %d runs in %s, want 13 in no less than 1.2s", len(h.Runs(t)), took)
	}
}

// D12: how long an answer is used.
func TestProviderCacheDuration(t *testing.T) {
	const auth = `"auth":{"${HOST}":{"username":"u","password":"hunter2"}}`
	for _, tt := range []struct {
		name, rest string
		life       time.Duration // of an answer that does not say
		want       int           // runs for three pulls, one after another, 300ms apart
	}{
		{"missing", auth, 0, 1},
		{"missing, none by default", auth, -1, 3},
		{"missing, a short default", auth, 100 * time.Millisecond, 3},
		{"null", `"cacheDuration":null,` + auth, 0, 1},
		{"zero", `"cacheDuration":"0s",` + auth, 0, 3},
		{"short", `"cacheDuration":"100ms",` + auth, 0, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, source := provider(t, helpertest.Script{Stdout: response("Registry", tt.rest)}, credential.Provider{DefaultCacheDuration: tt.life})
			k := source.Keychain()
			for range 3 {
				if got, err := ask(t, k, "reg.test/app"); err != nil || got != "u:hunter2" {
					t.Fatalf("got %s, %v", got, err)
				}
				time.Sleep(300 * time.Millisecond)
			}
			if got := len(h.Runs(t)); got != tt.want {
				t.Errorf("got %d runs, want %d", got, tt.want)
			}
		})
	}
}

// C6, D11: answers that are none.
func TestProviderAnswers(t *testing.T) {
	good := response("Registry", forHost)
	for _, tt := range []struct{ name, stdout, want string }{
		{"nothing", "", "answer: is not a JSON object"},
		{"junk", "hunter2", "answer: is not a JSON object"},
		{"D11 another version", strings.Replace(good, "/v1", "/v1beta1", 1), `apiVersion: "credentialprovider.kubelet.k8s.io/v1beta1", want credentialprovider.kubelet.k8s.io/v1`},
		{"D11 no version of it", strings.Replace(good, "credentialprovider.kubelet.k8s.io/v1", "hunter2", 1), `apiVersion: an unknown version, want credentialprovider`},
		{"another kind", strings.Replace(good, "ProviderResponse", "hunter2", 1), "kind: is not CredentialProviderResponse"},
		{"another cacheKeyType", strings.Replace(good, "Registry", "hunter2", 1), "cacheKeyType: is not Image, Registry or Global"},
		{"D12 no duration", strings.Replace(good, "1h0m0s", "hunter2", 1), "cacheDuration: is not a duration"},
		{"D12 a negative duration", strings.Replace(good, "1h0m0s", "-1h", 1), "cacheDuration: is negative; want 0s for an answer"},
		{"a number as duration", strings.Replace(good, `"1h0m0s"`, "12345", 1), "cacheDuration: is not text"},
		{"a pattern that is none", strings.Replace(good, "${HOST}", "hunter2[", 1), "auth[0]: its key "},
		{"no password", strings.Replace(good, "hunter2", "", 1), "auth[0].password: is empty"},
		{"a password of two lines", strings.Replace(good, "hunter2", `hunter2\nhunter2`, 1), "auth[0].password: has a newline"},
		{"a password that is none", strings.Replace(good, `"hunter2"`, "12345", 1), "auth[0]: password: is not text"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, source := provider(t, helpertest.Script{Stdout: tt.stdout}, credential.Provider{})
			_, err := ask(t, source.Keychain(), "reg.test/app")
			wantUnavailable(t, err, `helper "test-credential-provider": answer: `, tt.want)
		})
	}
	for _, rest := range []string{`"auth":{}`, `"auth":null`, `"cacheDuration":"1h"`, `"auth":{"other.test":{"username":"u","password":"p"}}`, `"auth":{"reg.test":{"username":"","password":""}}`} {
		_, source := provider(t, helpertest.Script{Stdout: response("Image", rest)}, credential.Provider{})
		if got, err := ask(t, source.Keychain(), "reg.test/app"); err != nil || got != ":" {
			t.Errorf("%s: got %s, %v, want none", rest, got, err)
		}
	}
}

// Values of the environment are kept out of errors, as is what the provider wrote.
func TestProviderFails(t *testing.T) {
	_, source := provider(t, helpertest.Script{Stderr: "profile hunter2 is not there", Exit: 2}, credential.Provider{Env: credential.Secret(credential.List("PROFILE=hunter2"))})
	_, err := ask(t, source.Keychain(), "reg.test/app")
	wantUnavailable(t, err, `helper "test-credential-provider": exit status 2: profile *** is not there`)
}

// match_images has kubelet's patterns: for what none matches the provider does not run.
func TestProviderMatchImages(t *testing.T) {
	for _, tt := range []struct {
		pattern, image string
		want           bool
	}{
		{"reg.test", "reg.test/app", true},
		{"reg.test", "reg.test:5000/app", false},
		{"reg.test:5000", "reg.test:5000/app", true},
		{"reg.test:5000", "reg.test/app", false},
		{"*.test", "reg.test/app", true},
		{"*.test", "a.reg.test/app", false},
		{"*.*.test", "a.reg.test/app", true},
		{"app*.reg.test", "app1.reg.test/x", true},
		{"reg.*", "reg.test/app", true},
		{"reg.test/team", "reg.test/team/app", true},
		{"reg.test/team/", "reg.test/team/app", true},
		{"reg.test/team", "reg.test/teams/app", true}, // the path is a prefix, not one of whole parts
		{"reg.test/team", "reg.test/app", false},
		{"https://reg.test/v2/team", "reg.test/team/app", true},
		{"*.dkr.ecr.*.amazonaws.com", "123.dkr.ecr.eu-1.amazonaws.com/app", true},
		{"*.dkr.ecr.*.amazonaws.com", "123.dkr.ecr.amazonaws.com/app", false},
	} {
		h, source := provider(t, helpertest.Script{Stdout: response("Registry", forHost)}, credential.Provider{MatchImages: credential.List("nothing.at.all", tt.pattern)})
		got, err := ask(t, source.Keychain(), tt.image)
		if err != nil || (got == "u:hunter2") != tt.want || (len(h.Runs(t)) == 1) != tt.want {
			t.Errorf("%s for %s: got %s, %v after %d runs, want a credential: %t", tt.pattern, tt.image, got, err, len(h.Runs(t)), tt.want)
		}
	}
}

// The most specific entry of an answer counts, as kubelet's keyring has them in order.
func TestProviderChooses(t *testing.T) {
	const auth = `"auth":{
		"reg.test":{"username":"host","password":"p"}, "*.test":{"username":"star","password":"p"},
		"reg.test/team":{"username":"path","password":"p"}, "reg.test/team/app":{"username":"image","password":"p"},
		"reg.test:5000":{"username":"port","password":"p"}}`
	_, source := provider(t, helpertest.Script{Stdout: response("Global", auth)}, credential.Provider{})
	k := source.Keychain()
	for image, want := range map[string]string{
		"reg.test/app": "host:p", "other.test/app": "star:p", "reg.test/team/x": "path:p", "reg.test/team/app": "image:p", "reg.test:5000/app": "port:p", "reg.io/app": ":",
	} {
		if got, err := ask(t, k, image); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", image, got, err, want)
		}
	}
}

// C9 for a provider: what it says anew replaces what was refused, for that image alone.
func TestProviderIsAskedAnew(t *testing.T) {
	h, source := provider(t, helpertest.Script{Stdout: response("Image", forImage)}, credential.Provider{})
	k := source.Keychain()
	refused, err := k.Credential(t.Context(), "reg.test/app", credential.Credential{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, k, "reg.test/other"); err != nil || got != "reg.test/other:hunter2" {
		t.Fatalf("got %s, %v", got, err)
	}
	h.Script(t, helpertest.Script{Stdout: response("Image", strings.Replace(forImage, "hunter2", "rotated", 1))})
	for range 3 {
		if got, err := k.Credential(t.Context(), "reg.test/app", refused); err != nil || shown(got) != "reg.test/app:rotated" {
			t.Errorf("got %s, %v", shown(got), err)
		}
	}
	if got, err := ask(t, k, "reg.test/other"); err != nil || got != "reg.test/other:hunter2" {
		t.Errorf("another image: got %s, %v, want what is remembered", got, err)
	}
	if got := len(h.Runs(t)); got != 3 {
		t.Errorf("got %d runs, want 3", got)
	}
}
