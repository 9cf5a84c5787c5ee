// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"strings"
	"testing"
	"time"
)

// An error about a config.json quotes no value of it, and what is read of it can be sent.
func FuzzDockerConfigJSON(f *testing.F) {
	for _, seed := range []string{
		`{"auths":{"reg.test":{"auth":"dTpw"}}}`, `{"auths":{"https://index.docker.io/v1/":{"identitytoken":"x"}},"credHelpers":{"a":"b"},"credsStore":"c"}`,
		`{"auths":{"a":{},"a":{}}}`, `{"auths":{"a/b":{"username":"u","password":"p"},"a":{"registrytoken":"r"}}}`, `{`, `[]`, `null`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseDockerConfig(data)
		if err != nil {
			return
		}
		for key, cred := range c.auths {
			if cred.IsZero() || cred.Username == "" || CheckPassword(cred.Username, cred.Password.Reveal()) != nil || strings.ContainsAny(cred.Username, ":\r\n") {
				t.Errorf("got a credential for %q that cannot be sent", key)
			}
			if found, name := c.find(key); name == "" && found.IsZero() {
				t.Errorf("got none for %q, which has one", key)
			}
		}
		for _, name := range c.programs() {
			if CheckProgram(name) != nil {
				t.Errorf("got helper %q", name)
			}
		}
	})
}

// Whatever a helper or a provider writes, an error has nothing of it that may be secret, and a credential can be sent.
func FuzzHelperOutput(f *testing.F) {
	for _, seed := range []string{
		`{"ServerURL":"reg.test","Username":"u","Secret":"canary"}`, `{"Secret":"canary`, `{"ServerURL":"canary x","Username":"u","Secret":"s"}`,
		`{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","cacheDuration":"1h","auth":{"*.test":{"username":"u","password":"canary"}}}`,
		"canary", `["canary"]`, "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, out []byte) {
		check := func(c Credential, err error) {
			if err == nil && !c.IsZero() && (c.Username == "" || CheckPassword(c.Username, c.Password.Reveal()) != nil) {
				t.Errorf("got a credential that cannot be sent")
			}
			if err != nil && !c.IsZero() {
				t.Errorf("got a credential beside %v", err)
			}
		}
		check(parseHelperOutput(out, "reg.test"))
		if a, err := parseProviderResponse(out, providerVersions[0], time.Minute); err == nil {
			check(a.pick("reg.test/app"), nil)
		}
		if hint := printableHint(string(out), string(out), nil); strings.Contains(hint, "canary") {
			t.Errorf("got hint %q, which was on the standard output too", hint)
		}
	})
}
