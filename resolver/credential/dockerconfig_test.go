// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/credential/helpertest"
)

// b64 is base64 of text, as auth has it.
func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// dockerConfig writes a config.json.
func dockerConfig(t testing.TB, text string) credential.Source {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return credential.Source{DockerConfig: path}
}

// D2: every form of a key that docker and others write, and the longest path of auth.json.
func TestDockerConfigKeys(t *testing.T) {
	for _, tt := range []struct{ key, image, want string }{
		{"reg.test", "reg.test/app", "u:p"},
		{"REG.test", "reg.test/app", "u:p"},
		{"https://reg.test", "reg.test/app", "u:p"},
		{"http://reg.test/", "reg.test/app", "u:p"},
		{"https://reg.test/v1/", "reg.test/app", "u:p"},
		{"https://reg.test/v2/", "reg.test/app", "u:p"},
		{"reg.test/v2/", "reg.test/app", "u:p"},
		{"reg.test:443", "reg.test/app", "u:p"},
		{"reg.test:5000", "reg.test:5000/app", "u:p"},
		{"reg.test:5000", "reg.test/app", ":"},
		{"reg.test", "reg.test:5000/app", ":"},
		{"https://index.docker.io/v1/", "docker.io/library/nginx", "u:p"},
		{"docker.io", "docker.io/library/nginx", "u:p"},
		{"registry-1.docker.io", "docker.io/library/nginx", "u:p"},
		{"docker.io/library", "docker.io/library/nginx", "u:p"},
		{"https://index.docker.io/v1/access-token", "docker.io/library/nginx", ":"}, // of Docker Desktop, for itself
		{"reg.test/team", "reg.test/team/app", "u:p"},
		{"reg.test/team/", "reg.test/team/app", "u:p"},
		{"reg.test/team/app", "reg.test/team/app", "u:p"},
		{"reg.test/team", "reg.test/teams/app", ":"},
		{"reg.test/team", "reg.test/app", ":"},
		{"reg.test", "reg.test.evil/app", ":"},
	} {
		source := dockerConfig(t, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, tt.key, b64("u:p")))
		if got, err := ask(t, source.Keychain(), tt.image); err != nil || got != tt.want {
			t.Errorf("%s for %s: got %s, %v, want %s", tt.key, tt.image, got, err, tt.want)
		}
	}
	marked := dockerConfig(t, "\xef\xbb\xbf"+fmt.Sprintf(`{"auths":{"reg.test":{"auth":%q}}}`, b64("u:p")))
	if got, err := ask(t, marked.Keychain(), "reg.test/app"); err != nil || got != "u:p" {
		t.Errorf("with a byte order mark: got %s, %v", got, err)
	}
	source := dockerConfig(t, fmt.Sprintf(`{"auths":{"reg.test":{"auth":%q},"reg.test/a":{"auth":%q},"reg.test/a/b":{"auth":%q},"reg.test/a/empty":{}}}`, b64("host:p"), b64("a:p"), b64("b:p")))
	k := source.Keychain()
	for image, want := range map[string]string{"reg.test/x": "host:p", "reg.test/a/x": "a:p", "reg.test/a/b/c/d": "b:p", "reg.test/ab": "host:p", "reg.test/a/empty/x": "a:p"} {
		if got, err := ask(t, k, image); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", image, got, err, want)
		}
	}
}

// D4, D5, D9, C17: what an entry may be.
func TestDockerConfigEntries(t *testing.T) {
	for _, tt := range []struct{ name, entry, want string }{
		{"auth", fmt.Sprintf(`{"auth":%q,"email":"x"}`, b64("u:p")), "u:p"},
		{"auth with spaces around it", fmt.Sprintf(`{"auth":" %s\r\n"}`, b64("u:p")), "u:p"},
		{"auth without padding, as kubelet reads it too", fmt.Sprintf(`{"auth":%q}`, strings.TrimRight(b64("us:pw"), "=")), "us:pw"},
		{"C17 a password with colons", fmt.Sprintf(`{"auth":%q}`, b64("u: p:%ö")), "u: p:%ö"},
		{"C17 a key file of Google's", fmt.Sprintf(`{"auth":%q}`, b64("_json_key:{\n\t\"a\": 1\r\n}\n")), "_json_key:{\n\t\"a\": 1\r\n}\n"},
		{"padded with NUL", fmt.Sprintf(`{"auth":%q}`, b64("u:p\x00\x00")), "u:p"},
		{"username and password", `{"username":"u","password":"p"}`, "u:p"},
		{"both, the same", fmt.Sprintf(`{"auth":%q,"username":"u","password":"p"}`, b64("u:p")), "u:p"},
		{"identity token", `{"identitytoken":"p"}`, "<token>:p"},
		{"identity token of ACR", fmt.Sprintf(`{"auth":%q,"identitytoken":"p"}`, b64("00000000-0000-0000-0000-000000000000:")), "<token>:p"},
		{"registry token", `{"registrytoken":"p"}`, "<registrytoken>:p"},
		{"none", `{}`, ":"},
		{"null", `{"auth":null}`, ":"},
	} {
		source := dockerConfig(t, `{"auths":{"reg.test":`+tt.entry+`},"HttpHeaders":{"X":"y"},"unknown":[1]}`)
		if got, err := ask(t, source.Keychain(), "reg.test/app"); err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %s", tt.name, got, err, tt.want)
		}
	}
}

// D1, D3, D4, D5, D8: errors name the key, and have nothing of the value.
func TestDockerConfigMistakes(t *testing.T) {
	entry := func(e string) string { return `{"auths":{"reg.test":` + e + `}}` }
	for _, tt := range []struct{ name, text, want string }{
		{"D1 not base64", entry(`{"auth":"hunter2!"}`), `auths["reg.test"].auth: is not base64`},
		{"D1 no colon", entry(fmt.Sprintf(`{"auth":%q}`, b64("hunter2"))), `auths["reg.test"].auth: has no colon`},
		{"D1 two lines", entry(fmt.Sprintf(`{"auth":%q}`, b64("u:hunter2\r\n"))), `auths["reg.test"]: password: has a newline`},
		{"D1 not text", entry(`{"auth":12345}`), `auths["reg.test"].auth: is not text`},
		{"D1 not an object", entry(`"hunter2"`), `auths["reg.test"]: is not a JSON object`},
		{"D3 a path", `{"credHelpers":{"reg.test":"../hunter2"}}`, `credHelpers["reg.test"]: is not the name of a helper`},
		{"D3 an absolute path", `{"credHelpers":{"reg.test":"/bin/hunter2"}}`, `credHelpers["reg.test"]: is not the name of a helper`},
		{"D3 a space", `{"credsStore":"hunter2 x"}`, `credsStore: is not the name of a helper`},
		{"D3 dots", `{"credsStore":".."}`, `credsStore: is not the name of a helper`},
		{"D3 nothing", `{"credHelpers":{"reg.test":""}}`, `credHelpers["reg.test"]: is not the name of a helper`},
		{"D4 both", entry(`{"username":"u","password":"hunter2","identitytoken":"hunter2"}`), `auths["reg.test"]: has more than one of a password, identitytoken and registrytoken`},
		{"D4 two of one", entry(fmt.Sprintf(`{"auth":%q,"password":"x"}`, b64("u:hunter2"))), `auths["reg.test"]: username and password are other than those of auth`},
		{"D4 another user", entry(fmt.Sprintf(`{"auth":%q,"username":"x"}`, b64("u:hunter2"))), `auths["reg.test"]: username and password are other than those of auth`},
		{"D5 no password", entry(fmt.Sprintf(`{"auth":%q}`, b64("u:"))), `auths["reg.test"]: password: is empty`},
		{"D5 no username", entry(fmt.Sprintf(`{"auth":%q}`, b64(":hunter2"))), `auths["reg.test"]: username: is empty`},
		{"D8 twice", fmt.Sprintf(`{"auths":{"reg.test":{"auth":%q},"reg.test":{"auth":%q}}}`, b64("u:hunter2"), b64("u:p")), `auths["reg.test"]: is the same registry as "reg.test"`},
		{"D8 the same twice", fmt.Sprintf(`{"auths":{"reg.test":{"auth":%[1]q},"reg.test":{"auth":%[1]q}}}`, b64("u:hunter2")), `auths["reg.test"]: is the same registry as "reg.test"`},
		{"D8 twice in two forms", fmt.Sprintf(`{"auths":{"https://reg.test/v1/":{"auth":%q},"reg.test":{"auth":%q}}}`, b64("u:hunter2"), b64("u:p")), `auths["reg.test"]: is the same registry as "https://reg.test/v1/"`},
		{"D8 auths twice", `{"auths":{},"auths":{}}`, "auths: is given twice"},
		{"D8 a helper twice", `{"credHelpers":{"reg.test":"a","https://reg.test":"b"}}`, `credHelpers["https://reg.test"]: is given twice`},
		{"empty", "", "is not a JSON object"},
		{"cut", `{"auths":{"reg.test":{"auth":"hunter2`, "is not JSON"},
		{"an array", `["hunter2"]`, "is not a JSON object"},
		{"large", strings.Repeat(" ", 1<<20) + "{}", "larger than 1048576 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source := dockerConfig(t, tt.text)
			_, err := ask(t, source.Keychain(), "reg.test/app")
			wantUnavailable(t, err, "docker_config", source.DockerConfig, tt.want)
			for _, secret := range []string{b64("u:hunter2"), b64("hunter2"), "12345"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("got %v, want no value in it", err)
				}
			}
			if warnings, err := source.Check(); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], tt.want) {
				t.Errorf("check: got %q, %v, want %q", warnings, err, tt.want)
			}
		})
	}
}

// A helper that a config.json names: for a host before what auths has of it, for all after that.
func TestDockerConfigHelpers(t *testing.T) {
	dir := t.TempDir()
	script := func(user string) helpertest.Script {
		return helpertest.Script{Stdout: fmt.Sprintf(`{"Username":%q,"Secret":"hunter2"}`, user)}
	}
	one, store := helpertest.Install(t, dir, "docker-credential-one", script("one")), helpertest.Install(t, dir, "docker-credential-store", script("store"))
	source := dockerConfig(t, fmt.Sprintf(`{"auths":{"one.test":{"auth":%[1]q},"two.test":{"auth":%[1]q},"three.test":{}},"credHelpers":{"https://one.test":"one","four.test":"absent"},"credsStore":"store"}`, b64("u:p")))
	source.HelperDirs = "/nowhere:" + dir
	k := source.Keychain()
	for range 2 {
		for image, want := range map[string]string{"one.test/app": "one:hunter2", "two.test/app": "u:p", "three.test/app": "store:hunter2", "five.test/app": "store:hunter2"} {
			if got, err := ask(t, k, image); err != nil || got != want {
				t.Errorf("%s: got %s, %v, want %s", image, got, err, want)
			}
		}
	}
	if got := len(one.Runs(t)); got != 1 {
		t.Errorf("got %d runs of the helper for one host, want 1", got)
	}
	if got := len(store.Runs(t)); got != 2 {
		t.Errorf("got %d runs of the helper for all, want 1 for each of two hosts", got)
	}
	_, err := ask(t, k, "four.test/app")
	wantUnavailable(t, err, `helper "docker-credential-absent": not found in /nowhere, `+dir)
	if warnings, err := source.Check(); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "docker-credential-absent") {
		t.Errorf("check: got %q, %v, want a warning of the helper that is absent", warnings, err)
	}
	if got, want := source.Kind(), "password"; got != want {
		t.Errorf("got kind %s, want %s", got, want)
	}
}
