// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/strict"
)

// loadText loads a file of the given text.
func loadText(t *testing.T, text string) (config.Loaded, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registry.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.LoadFile(path)
}

// Every kind of credential, and the source that it makes.
func TestCredentialKinds(t *testing.T) {
	for _, tt := range []struct {
		name string
		keys []string
		want credential.Source
		kind string
	}{
		{"docker config", []string{`docker_config = "/root/.docker/config.json"`}, credential.Source{DockerConfig: "/root/.docker/config.json"}, "password"},
		{"helper", []string{`credential_helper = "ecr-login"`, `helper_dirs = ["/opt/bin", "/opt/ecr"]`, `helper_timeout = "30s"`},
			credential.Source{Helper: "ecr-login", HelperDirs: "/opt/bin:/opt/ecr", HelperTimeout: 30 * time.Second}, "helper:ecr-login"},
		{"provider", []string{`credential_provider = { name = "ecr-credential-provider", args = ["get-credentials"], env = { B = "2", A = "1" }, match_images = ["*.dkr.ecr.*.amazonaws.com"], default_cache_duration = "12h" }`},
			credential.Source{Provider: credential.Provider{
				Program: "ecr-credential-provider", Args: credential.List("get-credentials"), Env: credential.Secret(credential.List("A=1", "B=2")),
				MatchImages: credential.List("*.dkr.ecr.*.amazonaws.com"), DefaultCacheDuration: 12 * time.Hour,
			}}, "helper:ecr-credential-provider"},
		{"provider by its path", []string{`[registries.credential_provider]`, `path = "/opt/p"`, `api_version = "credentialprovider.kubelet.k8s.io/v1"`, `default_cache_duration = "0s"`},
			credential.Source{Provider: credential.Provider{Program: "/opt/p", APIVersion: "credentialprovider.kubelet.k8s.io/v1", DefaultCacheDuration: -1}}, "helper:p"},
		{"strict", []string{`docker_config = "/c"`, "", "[[rules]]", `from = "a.io"`, `to = ["r.io/p"]`}, credential.Source{DockerConfig: "/c", StrictPermissions: true}, "password"},
	} {
		text := registryText(tt.keys...)
		if tt.want.StrictPermissions {
			text = "strict_permissions = true\n" + text
		}
		loaded, err := loadText(t, text)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := loaded.Registries[0].Credential
		if got != tt.want || got.Provider.Env.Reveal() != tt.want.Provider.Env.Reveal() {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
		if got.Kind() != tt.kind {
			t.Errorf("%s: got kind %s, want %s", tt.name, got.Kind(), tt.kind)
		}
		if !slices.ContainsFunc(loaded.Warnings, func(w string) bool { return strings.HasPrefix(w, "registry r.io/p: ") }) {
			t.Errorf("%s: got warnings %q, want one of what is not there", tt.name, loaded.Warnings)
		}
	}
}

// D3, D4, D11: what is no source of a credential.
func TestCredentialKindMistakes(t *testing.T) {
	for _, tt := range []struct {
		name string
		keys []string
		want []string
	}{
		{"D4 two kinds", []string{`username = "u"`, `password = "hunter2"`, `docker_config = "/x"`}, []string{"5: registries[0].docker_config: stands beside username; keep one of them"}},
		{"D4 two helpers", []string{`credential_helper = "a"`, `credential_provider = { name = "b" }`}, []string{"4: registries[0].credential_provider: stands beside credential_helper"}},
		{"a docker config itself", []string{`docker_config = "{\"auths\":\"hunter2\"}"`}, []string{"3: registries[0].docker_config: is not an absolute path"}},
		{"D3 a helper's path", []string{`credential_helper = "/bin/x"`}, []string{"3: registries[0].credential_helper: is not the name of a helper"}},
		{"D3 a helper above", []string{`credential_helper = "../x"`}, []string{"3: registries[0].credential_helper: is not the name of a helper"}},
		{"no helper", []string{`credential_helper = ""`}, []string{"3: registries[0].credential_helper: is empty"}},
		{"a helper that is a table", []string{`credential_helper = { name = "x" }`}, []string{"3: registries[0].credential_helper: is a table; want text"}},
		{"directories", []string{`credential_helper = "x"`, `helper_dirs = ["bin", "/a:/b"]`}, []string{`4: registries[0].helper_dirs: "bin" is not an absolute path`, `4: registries[0].helper_dirs: "/a:/b" is not`}},
		{"a time", []string{`credential_helper = "x"`, `helper_timeout = "2m"`}, []string{`4: registries[0].helper_timeout: "2m" is not accepted; want a duration with a unit, such as "5s", from 100ms to 1m`}},
		{"directories for nothing", []string{`helper_dirs = ["/opt/bin"]`}, []string{"3: registries[0].helper_dirs: has no effect without"}},
		{"provider without a name", []string{`credential_provider = { args = ["x"] }`}, []string{"3: registries[0].credential_provider.name: wants either name or path"}},
		{"provider with both", []string{`credential_provider = { name = "x", path = "/x" }`}, []string{"3: registries[0].credential_provider.name: wants either name or path"}},
		{"D3 provider's name", []string{`credential_provider = { name = "a/b" }`}, []string{`3: registries[0].credential_provider.name: "a/b" is not the name of a helper`}},
		{"provider's path", []string{`credential_provider = { path = "b" }`}, []string{`3: registries[0].credential_provider.path: "b" is not an absolute path`}},
		{"D11 provider's version", []string{`credential_provider = { name = "b", api_version = "v1" }`}, []string{`3: registries[0].credential_provider: api_version: "v1" is not known; want one of credentialprovider.kubelet.k8s.io/v1, `}},
		{"provider's pattern", []string{`credential_provider = { name = "b", match_images = ["[.io"] }`}, []string{`3: registries[0].credential_provider: match_images: "[.io": `}},
		{"provider's variable", []string{`credential_provider = { name = "b", env = { "A=hunter2" = "x" } }`}, []string{`3: registries[0].credential_provider.env: has a name with =`}},
		{"kubelet's own keys", []string{`credential_provider = { name = "b", matchImages = ["x"] }`}, []string{`3: registries[0].credential_provider.matchImages: unknown key; did you mean "match_images"?`}},
	} {
		t.Run(tt.name, func(t *testing.T) { wantProblems(t, problemsOf(t, registryText(tt.keys...)), tt.want) })
	}
}

// D14: containerd prints its stanza, and what is secret may not be in it; what names a file or a helper may.
func TestCredentialInStanza(t *testing.T) {
	load := func(registry map[string]any) error {
		registry["domain"] = "r.io"
		_, err := config.Load(strict.Stanza{Name: "config.toml", Values: map[string]any{"config_path": []any{}, "registries": []any{registry}}})
		return err
	}
	for _, good := range []map[string]any{
		{"docker_config": "/x"}, {"credential_helper": "x"}, {"credential_provider": map[string]any{"name": "x"}}, {"username": "u", "password_file": "/x"},
	} {
		if err := load(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	err := load(map[string]any{"credential_provider": map[string]any{"name": "x", "env": map[string]any{"A": secret}}})
	if err == nil || !strings.Contains(err.Error(), "credential_provider.env: `containerd config dump` would print it") || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v, want env refused, and not quoted", err)
	}
}
