// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package cloudconfig_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/convert/converttest"
)

// Every shape that is published, and what is made of it: the configuration of a TOML file. A line that is PEM alone stands
// for a certificate, in TOML for one in quotes. Warnings are those of the shape, without the file.
var shapes = []struct {
	name, yaml, toml string
	warnings         []string
}{
	{"single", `#cloud-config
stylus:
  registryCredentials:
    domain: "10.10.254.254:8000/spectro-images"
    username: "ubuntu"
    password: "*******"
    insecure: true
`, `
registries = [{domain = "10.10.254.254:8000/spectro-images", username = "ubuntu", password = "*******", insecure = true}]
rules = [{from = "*", to = ["10.10.254.254:8000/spectro-images"]}]
`, nil},
	{"single, without quotes, among others", `#cloud-config
install: &install
  reboot: true
  reboot: false
stages: {initramfs: [*install, {users: {kairos: {passwd: kairos}}}]}
stylus:
  site: {paletteEndpoint: api.example.com, 1: [2026-01-01, ~], deviceUIDPaths: *install}
  registryCredentials:
    domain: 10.10.254.254:8000/spectro-images
    username: ubuntu
    password: <yourPassword>
    encodedPassword: false
    insecure: true
`, `
registries = [{domain = "10.10.254.254:8000/spectro-images", username = "ubuntu", password = "<yourPassword>", insecure = true}]
rules = [{from = "*", to = ["10.10.254.254:8000/spectro-images"]}]
`, nil},
	{"single, base64 said by true", `stylus:
  registryCredentials: {domain: r.example.com, username: u, password: aHVudGVyMg==, encodedPassword: true}
`, `
registries = [{domain = "r.example.com", username = "u", encoded_password = "aHVudGVyMg=="}]
rules = [{from = "*", to = ["r.example.com"]}]
`, nil},
	{"single, base64 in a key of its own", `stylus:
  registryCredentials: {domain: r.example.com, username: u, password: "", encodedPassword: aHVudGVyMg==}
`, `
registries = [{domain = "r.example.com", username = "u", encoded_password = "aHVudGVyMg=="}]
rules = [{from = "*", to = ["r.example.com"]}]
`, nil},
	{"single, password and base64 of it", `stylus:
  registryCredentials: {domain: r.example.com, username: u, password: hunter2, encodedPassword: aHVudGVyMg==}
`, `
registries = [{domain = "r.example.com", username = "u", password = "hunter2"}]
rules = [{from = "*", to = ["r.example.com"]}]
`, nil},
	{"single, true in quotes", `stylus:
  registryCredentials: {domain: r.example.com, username: u, password: aHVudGVyMg==, encodedPassword: "true"}
`, `
registries = [{domain = "r.example.com", username = "u", encoded_password = "aHVudGVyMg=="}]
rules = [{from = "*", to = ["r.example.com"]}]
`, []string{`2: stylus.registryCredentials.encodedPassword: is text in quotes; want true or false without`}},
	{"single, nobody filled it in", `stylus:
  registryCredentials: {domain: "", username: "", password: "", insecure: false}
`, ``, []string{`has neither stylus.registryCredentials nor stylus.externalRegistries with a registry or a rule; nothing is configured from it`}},
	{"several, a list of certificates", `#cloud-config
stylus:
  externalRegistries:
    registries:
      - domain: "example.registry.com/palette-images"
        username: "admin"
        password: "***************"
        repositoryName: example-repository-private
        certificates:
          - |
            PEM
          - |
            PEM
        encodedPassword: ""
        insecure: false
    registryMappingRules:
      "us-docker.pkg.dev/palette-images": "example.registry.com/palette-images"
      "us-east1-docker.pkg.dev/spectro-images/daily": "example.registry.com/palette-images"
`, `
rules = [{from = "us-docker.pkg.dev/palette-images", to = ["example.registry.com/palette-images"]},
  {from = "us-east1-docker.pkg.dev/spectro-images/daily", to = ["example.registry.com/palette-images"]}]
[[registries]]
domain = "example.registry.com/palette-images"
username = "admin"
password = "***************"
name = "example-repository-private"
certificates = ["""
PEM
""", """
PEM
"""]
`, nil},
	{"several, one text with all certificates", `stylus:
  externalRegistries:
    registries:
    - domain: "10.10.254.254:8000/spectro-images"
      username: "admin"
      password: "***************"
      repositoryName: "example-repository-private"
      certificates: |
        PEM
        PEM
    - domain: "10.10.11.60:3899/security-images"
      username: "projectAdmin2"
      password: "***************"
      repositoryName: security-images
      certificates: []
`, `
[[registries]]
domain = "10.10.254.254:8000/spectro-images"
username = "admin"
password = "***************"
name = "example-repository-private"
certificates = ["""
PEM
PEM
"""]
[[registries]]
domain = "10.10.11.60:3899/security-images"
username = "projectAdmin2"
password = "***************"
name = "security-images"
`, []string{`8: stylus.externalRegistries.registries[0].certificates: is text where a list of texts belongs; all certificates in it are read`}},
	{"targets under no registry, and a host misspelt", `stylus:
  externalRegistries:
    registries:
    - domain: "10.10.254.254:8000/spectro-images"
    registryMappingRules:
      "us-docker.pkg.dev/palette-images": "example.registry.com/palette-images"
      "grc.io/spectro-dev-public": "example.registry.com/palette-images"
      "grc.io/spectro-images-public": "example.registry.com/palette-images"
`, `
registries = [{domain = "10.10.254.254:8000/spectro-images"}]
rules = [{from = "us-docker.pkg.dev/palette-images", to = ["example.registry.com/palette-images"]},
  {from = "grc.io/spectro-dev-public", to = ["example.registry.com/palette-images"]},
  {from = "grc.io/spectro-images-public", to = ["example.registry.com/palette-images"]}]
`, []string{
		`7: stylus.externalRegistries.registryMappingRules.grc.io/spectro-dev-public: is for the host grc.io; was gcr.io meant?`,
		`8: stylus.externalRegistries.registryMappingRules.grc.io/spectro-images-public: is for the host grc.io; was gcr.io meant?`,
		`6: stylus.externalRegistries.registryMappingRules.us-docker.pkg.dev/palette-images: example.registry.com/palette-images is under no registry of the configuration: it is asked without a credential, and with the system's certificates`,
	}},
	{"rules alone", `stylus:
  managementMode: local
  externalRegistries:
    registryMappingRules:
      "us-docker.pkg.dev/palette-images": "example.registry.com/palette-images"
`, `
rules = [{from = "us-docker.pkg.dev/palette-images", to = ["example.registry.com/palette-images"]}]
`, nil},
	{"several and rules beside an empty section", `stylus:
externalRegistries:
  registries:
    - domain: example.registry.com/internal-images/
registryMappingRules:
  "us-docker.pkg.dev/palette-images/": "example.registry.com/internal-images"
`, `
registries = [{domain = "example.registry.com/internal-images"}]
rules = [{from = "us-docker.pkg.dev/palette-images", to = ["example.registry.com/internal-images"]}]
`, []string{
		`2: externalRegistries: belongs below stylus:, indented; it is read here too`,
		`4: externalRegistries.registries[0].domain: ends with a slash, which is dropped`,
		`5: registryMappingRules: belongs below stylus.externalRegistries; it is read here too`,
	}},
	{"rules a level too high", `stylus:
  externalRegistries:
    registries:
      - domain: https://example.registry.com:443/internal-images
    registryMappingRules:
  registryMappingRules:
    us-docker.pkg.dev/palette-images: example.registry.com/internal-images
`, `
registries = [{domain = "example.registry.com/internal-images"}]
rules = [{from = "us-docker.pkg.dev/palette-images", to = ["example.registry.com/internal-images"]}]
`, []string{
		`4: stylus.externalRegistries.registries[0].domain: has a scheme, which is dropped; want host[:port][/path]`,
		`6: stylus.registryMappingRules: belongs below stylus.externalRegistries; it is read here too`,
	}},
	{"both", `stylus:
  externalRegistries:
    registries: [{domain: other.example.com, username: "", password: ""}]
    registryMappingRules: {"quay.io": "other.example.com/quay"}
  registryCredentials: {domain: R.example.com/all/, username: u, password: p}
`, `
registries = [{domain = "r.example.com/all", username = "u", password = "p"}, {domain = "other.example.com"}]
rules = [{from = "quay.io", to = ["other.example.com/quay"]}, {from = "*", to = ["r.example.com/all"]}]
`, []string{`5: stylus.registryCredentials.domain: ends with a slash, which is dropped`}},
	{"both, and a rule for all", `stylus:
  externalRegistries: {registryMappingRules: {"*": "r.example.com/everything"}}
  registryCredentials: {domain: r.example.com}
`, `
registries = [{domain = "r.example.com"}]
rules = [{from = "*", to = ["r.example.com/everything"]}]
`, nil},
	{"an alias, and a mapping that is merged", `x-login: &login {username: u, password: &password "p"}
stylus:
  externalRegistries:
    registries:
      - {domain: a.example.com, <<: *login}
      - {domain: b.example.com, username: v, password: *password}
`, `
registries = [{domain = "a.example.com", username = "u", password = "p"}, {domain = "b.example.com", username = "v", password = "p"}]
`, nil},
	{"JSON", `{"stylus": {"registryCredentials": {"domain": "r.example.com", "username": "u", "password": "\u0070"}}}`, `
registries = [{domain = "r.example.com", username = "u", password = "p"}]
rules = [{from = "*", to = ["r.example.com"]}]
`, nil},
	{"a byte order mark, and the marks of a document", "\xef\xbb\xbf#cloud-config\n---\nstylus: {registryCredentials: {domain: r.example.com}}\n---\n# nothing\n...\n", `
registries = [{domain = "r.example.com"}]
rules = [{from = "*", to = ["r.example.com"]}]
`, nil},
	{"lines end as on Windows", "#cloud-config\r\nstylus:\r\n  registryCredentials:\r\n    domain: r.example.com\r\n", `
registries = [{domain = "r.example.com"}]
rules = [{from = "*", to = ["r.example.com"]}]
`, nil},
	{"empty", "", "", nil},
	{"only a comment", "#cloud-config\n", "", nil},
	{"of something else", "#cloud-config\nusers: [{name: kairos}]\n", "",
		[]string{`has neither stylus.registryCredentials nor stylus.externalRegistries with a registry or a rule; nothing is configured from it`}},
}

// certificate is a certificate of its own authority, as PEM.
var certificate = sync.OnceValue(func() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
})

// withPEM puts certificates in place of lines that are PEM, as deep as these are.
func withPEM(text string) string {
	return regexp.MustCompile(`(?m)^( *)PEM$`).ReplaceAllStringFunc(text, func(line string) string {
		indent := strings.TrimSuffix(line, "PEM")
		return indent + strings.ReplaceAll(strings.TrimSuffix(certificate(), "\n"), "\n", "\n"+indent)
	})
}

// load reads text by a file of the given name, and returns warnings without the file.
func load(t testing.TB, name, text string) (loaded resolver.Config, warnings []string, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(withPEM(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := config.LoadFile(path)
	for _, w := range l.Warnings {
		if rest, ok := strings.CutPrefix(w, path+":"); ok {
			warnings = append(warnings, strings.TrimPrefix(rest, " "))
		}
	}
	return l.Config, warnings, err
}

// A5: and an empty file is a good one, without a warning.
func TestShapes(t *testing.T) {
	for _, tt := range shapes {
		t.Run(tt.name, func(t *testing.T) {
			got, warnings, err := load(t, "user-data.yaml", tt.yaml)
			if err != nil {
				t.Fatal(err)
			}
			want, _, err := load(t, "berth.toml", tt.toml)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got\n%+v\nwant\n%+v", got, want)
			}
			if !slices.Equal(warnings, tt.warnings) {
				t.Errorf("got warnings %q, want %q", warnings, tt.warnings)
			}
			if tt.toml == "" {
				return // nothing to convert
			}
			if converted, result := converttest.RoundTrip(t, "user-data.yaml", withPEM(tt.yaml)); !reflect.DeepEqual(converted, want) {
				t.Errorf("converted: got\n%+v\nwant\n%+v\nof\n%s", converted, want, result.TOML)
			}
		})
	}
}

// C12: what bounds a file of little that stands for much lets one of ten thousand rules pass.
func TestManyRules(t *testing.T) {
	var text strings.Builder
	text.WriteString("stylus:\n  externalRegistries:\n    registryMappingRules:\n")
	const rules = 10_000
	for i := range rules {
		fmt.Fprintf(&text, "      quay.io/team/app-%d: registry.example.com/apps-%d\n", i, i)
	}
	if got, _, err := load(t, "user-data.yaml", text.String()); err != nil || len(got.Rules) != rules {
		t.Errorf("got %d rules, %v, want %d", len(got.Rules), err, rules)
	}
}
