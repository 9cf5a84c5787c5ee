// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package k3s_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/convert"
	"github.com/berth-edge/berth/resolver/convert/converttest"
)

// ns is what is said of every mirror for *.
const ns = ": mirrors.*: k3s tells such a mirror by the parameter ns which host was asked for"

// Each registries.yaml, and the TOML file that means the same. lost are the beginnings of what is reported, without the file.
var examples = []struct {
	name, yaml, toml string
	lost             []string
}{
	{"a mirror", `mirrors:
  docker.io:
    endpoint:
      - "https://registry.example.com:5000"
`, `
registries = [{domain = "registry.example.com:5000"}]
rules = [{from = "docker.io", to = ["registry.example.com:5000", "source"]}, {from = "*", to = ["source"]}]
`, nil},
	{"endpoints of every kind", `mirrors:
  docker.io:
    endpoint:
      - https://a.example.com/v2
      - b.example.com/
      - https://c.example.com/v2/proxy/hub/
      - http://d.example.com:5000
      - http://e.example.com
      - localhost:5001
      - https://localhost:5002
      - https://a.example.com/v2
      - https://registry-1.docker.io
`, `
registries = [{domain = "a.example.com"}, {domain = "b.example.com"}, {domain = "c.example.com"}, {domain = "http://d.example.com:5000", insecure = true},
  {domain = "http://e.example.com:80", insecure = true}, {domain = "http://localhost:5001", insecure = true}, {domain = "localhost:5002"}]
rules = [{from = "docker.io", to = ["a.example.com", "b.example.com", "c.example.com/proxy/hub", "d.example.com:5000", "e.example.com:80", "localhost:5001", "localhost:5002", "source"]},
  {from = "*", to = ["source"]}]
`, nil},
	{"endpoints that cannot be", `mirrors:
  quay.io:
    endpoint:
      - https://a.example.com/artifactory/docker
      - https://u:hunter2@a.example.com
      - ftp://a.example.com
      - https://a.example.com?x=1
      - "https://"
      - https://a.example.com/v2/Upper
      - https://b.example.com
`, `
registries = [{domain = "b.example.com"}]
rules = [{from = "quay.io", to = ["b.example.com", "source"]}, {from = "*", to = ["source"]}]
`, []string{
		"4: mirrors.quay.io.endpoint[0]: is not carried over: its path does not begin with /v2/",
		"5: mirrors.quay.io.endpoint[1]: is not carried over: it has a user and a password, which belong in configs",
		`6: mirrors.quay.io.endpoint[2]: is not carried over: it has the scheme "ftp"`,
		"7: mirrors.quay.io.endpoint[3]: is not carried over: it has a query or a fragment",
		"8: mirrors.quay.io.endpoint[4]: is not carried over: it is no URL",
		"9: mirrors.quay.io.endpoint[5]: is not carried over: has upper-case letters in its path",
	}},
	{"everything, with a credential", `mirrors:
  "*":
    endpoint: ["https://registry.example.com:5000"]
configs:
  "registry.example.com:5000":
    auth:
      username: admin # this is the registry username
      password: hunter2 # this is the registry password
    tls:
      cert_file: # path to the cert file used in the registry
      key_file:  # path to the key file used in the registry
      ca_file:   # path to the ca file used in the registry
`, `
registries = [{domain = "registry.example.com:5000", username = "admin", password = "hunter2"}]
rules = [{from = "*", to = ["registry.example.com:5000", "source"], path = "rest"}]
`, []string{"2" + ns}},
	{"credentials of every kind", `configs:
  a.example.com: {auth: {auth: YWRtaW46aHVudGVyMg==}}
  b.example.com: {auth: {identity_token: hunter2}}
  c.example.com: {auth: {username: u, password: p, auth: YTpi, identity_token: x}}
  d.example.com: {auth: {token: hunter2}}
  e.example.com: {tls: {insecure_skip_verify: true}}
  f.example.com: {auth: {username: "", password: ""}, tls: {insecure_skip_verify: false}}
  "docker.io":
`, `
registries = [{domain = "a.example.com", username = "admin", password = "hunter2"}, {domain = "b.example.com", username = "<token>", password = "hunter2"},
  {domain = "c.example.com", username = "u", password = "p"}, {domain = "d.example.com"}, {domain = "e.example.com", insecure = true}, {domain = "f.example.com"}]
rules = [{from = "*", to = ["source"]}]
`, []string{
		"4: configs.c.example.com.auth.identity_token: is not carried over: k3s takes username before it",
		"4: configs.c.example.com.auth.auth: is not carried over: k3s takes username before it",
		"5: configs.d.example.com.auth.token: is not carried over: a bearer token is not supported",
	}},
	{"a credential for plain HTTP", `mirrors:
  registry.example.com:
    endpoint: [http://registry.example.com]
  reg.example.com:5000:
    endpoint: [http://reg.example.com:5000]
configs:
  registry.example.com:
    auth: {username: u, password: hunter2}
`, `
registries = [{domain = "registry.example.com", username = "u", password = "hunter2"},
  {domain = "http://registry.example.com:80", username = "u", password = "hunter2", insecure = true}, {domain = "http://reg.example.com:5000", insecure = true}]
rules = [{from = "registry.example.com", to = ["registry.example.com:80", "source"]}, {from = "*", to = ["source"]}]
`, nil},
	{"rewrites", `mirrors:
  docker.io:
    endpoint: [https://registry.example.com:5000, https://harbor.example.com/v2/hub, https://index.docker.io]
    rewrite:
      "^rancher/(.*)": "mirrorproject/rancher-images/$1"
      "^a/b/(.+)$": "${1}"
      "^library/": ""
      "^one/": "two/"
      "^k8s\\.io/(.*)": "k/$1"
  quay.io:
    endpoint: [https://registry.example.com:5000]
    rewrite: {"^(.*)$": "quay/$1"}
  gcr.io:
    endpoint: [https://gcr.io:443]
    rewrite: {"(.*)": "mirror/$1"}
`, `
registries = [{domain = "registry.example.com:5000"}, {domain = "harbor.example.com"}]
rules = [
  {from = "docker.io/rancher", to = ["registry.example.com:5000/mirrorproject/rancher-images", "harbor.example.com/hub/mirrorproject/rancher-images", "source"]},
  {from = "docker.io/a/b", to = ["registry.example.com:5000", "harbor.example.com/hub", "source"]},
  {from = "docker.io/library", to = ["registry.example.com:5000", "harbor.example.com/hub", "source"]},
  {from = "docker.io/one", to = ["registry.example.com:5000/two", "harbor.example.com/hub/two", "source"]},
  {from = "docker.io/k8s.io", to = ["registry.example.com:5000/k", "harbor.example.com/hub/k", "source"]},
  {from = "docker.io", to = ["registry.example.com:5000", "harbor.example.com/hub", "source"]},
  {from = "quay.io", to = ["registry.example.com:5000/quay", "source"]},
  {from = "gcr.io", to = ["gcr.io/mirror", "source"]},
  {from = "*", to = ["source"]},
]
`, nil},
	{"rewrites that are no rule", `mirrors:
  docker.io:
    endpoint: [https://r.example.com]
    rewrite:
      "^rancher(.*)": "x$1"
      "rancher/(.*)": "x/$1"
      "^(?i)rancher/(.*)": "x/$1"
      "^rancher/(.*)-(.*)": "x/$1/$2"
      "^rancher/(.*?)": "x/$1"
      "^k8s.io/(.*)": "x/$1"
      "^rancher/(.*)/y": "x/$1"
      "^rancher/.*": "x/y"
      "^a/(.*)": "x/$1/z"
      "^a/b": "x/"
      "^c/(.*)": "X/$1"
      "^d//(.*)": "x/$1"
      "[": "x"
      "^e/(.*)": "x/$1"
      "^e/": "y/"
      "^(.*)": "all/$1"
      "(.*)": "again/$1"
  "*":
    endpoint: [https://r.example.com]
    rewrite: {"^a/(.*)": "x/$1"}
`, `
registries = [{domain = "r.example.com"}]
rules = [{from = "docker.io/e", to = ["r.example.com/x", "source"]}, {from = "docker.io", to = ["r.example.com/all", "source"]}, {from = "*", to = ["r.example.com", "source"], path = "rest"}]
`, []string{
		"5: mirrors.docker.io.rewrite.^rancher(.*): is not carried over: only a rewrite of one prefix by another can be a rule",
		"6: ", "7: ", "8: ", "9: ", "10: ", "11: ", "12: ", "13: ", "14: ",
		"15: mirrors.docker.io.rewrite.^c/(.*): is not carried over: what it replaces, or puts in its place, is no part of a repository",
		"16: mirrors.docker.io.rewrite.^d//(.*): is not carried over: only",
		"17: mirrors.docker.io.rewrite.[: is not carried over: only",
		"19: mirrors.docker.io.rewrite.^e/: is not carried over: there is a rule for docker.io/e already",
		"21: mirrors.docker.io.rewrite.(.*): is not carried over: another rewrite matches everything already",
		"22" + ns,
		"24: mirrors.*.rewrite.^a/(.*): is not carried over: a rule for * cannot match a path",
	}},
	{"what is not carried over", `mirrors:
  docker.io:
  "*": {}
  not a host: {endpoint: [https://r.example.com]}
  docker.io/rancher: {endpoint: [https://r.example.com]}
  quay.io: {endpoint: [https://quay.io], override: true}
  ghcr.io: {endpoints: [https://r.example.com]}
configs:
  "*":
    tls: {insecure_skip_verify: true}
  registry/x: {auth: {username: u, password: p}}
  r.example.com: {auth: {username: u, password: p, passwort: x}, tsl: {ca_file: /x}}
  u:hunter2@s.example.com: {auth: {username: u}}
  R.example.com: {auth: {username: v, password: p}}
auths: {}
`, `
registries = [{domain = "r.example.com", username = "u", password = "p"}]
rules = [{from = "*", to = ["source"]}]
`, []string{
		"2: mirrors.docker.io: is not carried over: it has no endpoint, which asks k3s for its embedded registry mirror",
		"3: mirrors.*: is not carried over: it has no endpoint",
		`4: mirrors.not a host: is not carried over: begins with "not a host"`,
		"5: mirrors.docker.io/rancher: is not carried over: it is no host, since it has a path",
		`6: mirrors.quay.io.override: unknown key; known are endpoint, rewrite; k3s ignores it`,
		`7: mirrors.ghcr.io: is not carried over: it has no endpoint`,
		"9: configs.*: is not carried over: there is no registry that stands for every host",
		`11: configs.registry/x: is not carried over: begins with "registry", which is no host`,
		`12: configs.r.example.com.tsl: unknown key; did you mean "tls"?; k3s ignores it`,
		`12: configs.r.example.com.auth.passwort: unknown key; did you mean "password"?; k3s ignores it`,
		"13: configs.***@s.example.com: is not carried over: has an @ in its host",
		"14: configs.R.example.com: is not carried over: there is an entry for the same registry already",
		`15: auths: unknown key; known are configs, mirrors; k3s ignores it`,
	}},
	{"nothing", "mirrors:\nconfigs:\n", "", nil},
}

func TestExamples(t *testing.T) {
	for _, tt := range examples {
		t.Run(tt.name, func(t *testing.T) {
			got, result := converttest.RoundTrip(t, "registries.yaml", tt.yaml)
			path := filepath.Join(t.TempDir(), "want.toml")
			if err := os.WriteFile(path, []byte(tt.toml), 0o600); err != nil {
				t.Fatal(err)
			}
			want, err := config.LoadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want.Config) {
				t.Errorf("got\n%+v\nwant\n%+v\nof\n%s", got, want.Config, result.TOML)
			}
			var lost []string
			for _, p := range result.Lost {
				lost = append(lost, strings.TrimPrefix(p.Error(), "registries.yaml:"))
			}
			if !slices.EqualFunc(lost, tt.lost, func(got, want string) bool { return strings.HasPrefix(got, want) }) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(lost, "\n"), strings.Join(tt.lost, "\n"))
			}
			if strings.Contains(strings.Join(lost, "\n"), "hunter2") {
				t.Errorf("got the secret in %q", lost)
			}
			for _, line := range lost {
				if !strings.Contains(string(result.TOML), "# - registries.yaml:"+line+"\n") {
					t.Errorf("got no comment %q in\n%s", line, result.TOML)
				}
			}
		})
	}
}

// D1, D5: mistakes have their line and the key as it is written, and nothing of a password.
func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"not base64", "configs:\n  r.io:\n    auth:\n      auth: hunter2!\n", "registries.yaml:4: configs.r.io.auth.auth: is not the base64 of user:password"},
		{"no colon", "configs: {r.io: {auth: {auth: aHVudGVyMg==}}}\n", "registries.yaml:1: configs.r.io.auth.auth: is not the base64 of user:password"},
		{"no user", "configs: {r.io: {auth: {auth: Omh1bnRlcjI=}}}\n", "registries.yaml:1: configs.r.io.auth.auth: is not the base64 of user:password"},
		{"two lines", "configs: {r.io: {auth: {auth: dTpodW50ZXIyCmh1bnRlcjI=}}}\n", "registries.yaml:1: configs.r.io.auth.auth: has a newline or another control character"},
		{"a password alone", "configs: {r.io: {auth: {password: hunter2}}}\n", "registries.yaml:1: configs.r.io.auth.password: has no username"},
		{"a user alone", "configs:\n  r.io:\n    auth:\n      username: u\n      password: ####\n", "registries.yaml:4: configs.r.io.auth.username: has no password"},
		{"a number", "configs: {r.io: {auth: {username: u, password: 4711}}}\n", "registries.yaml:1: configs.r.io.auth.password: is a number; want text in quotes"},
		{"an alias", "configs: {r.io: {auth: {username: u, password: *hunter2}}}\n", "registries.yaml:1: YAML syntax: an alias (*) of what has no name"},
		{"no list", "mirrors: {docker.io: {endpoint: https://r.io}}\n", `registries.yaml:1: mirrors.docker.io.endpoint: is text; want a list of texts`},
		{"no truth", "configs: {r.io: {tls: {insecure_skip_verify: 1}}}\n", "registries.yaml:1: configs.r.io.tls.insecure_skip_verify: is a number; want true or false"},
		{"a relative path", "configs: {r.io: {tls: {ca_file: ca.pem}}}\n", "registries.yaml:1: configs.r.io.tls.ca_file[0]: is neither PEM text nor an absolute path"},
		{"a key that is missing", "configs: {r.io: {tls: {cert_file: /absent.pem}}}\n", "registries.yaml:1: configs.r.io.tls.cert_file: wants client_key beside it"},
		{"a mirror twice", "mirrors:\n  docker.io: {endpoint: [https://r.io]}\n  docker.io: {endpoint: [https://s.io]}\n", "registries.yaml:3: mirrors.docker.io: is already defined at registries.yaml:2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := convert.Convert("registries.yaml", []byte(tt.text), "/secrets", false)
			got := fmt.Sprint(err)
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if strings.Contains(got, "hunter2") || strings.Contains(got, "4711") {
				t.Errorf("got the secret in %q", got)
			}
		})
	}
}
