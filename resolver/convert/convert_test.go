// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/convert"
	"github.com/berth-edge/berth/resolver/convert/converttest"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// C18: the kind of a file is told by its content; one that is of neither kind, or has mistakes, is not converted.
func TestMistakes(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"of neither kind", "users: []\n", []string{"FILE: is neither a cloud-config with stylus: nor a registries.yaml with mirrors: or configs:"}},
		{"empty", "", []string{"FILE: is neither a cloud-config"}},
		{"TOML", "[[registries]]\ndomain = \"r.io\"\n", []string{"FILE:2: YAML syntax: "}},
		{"not YAML", "stylus: *hunter2\n", []string{"FILE:1: YAML syntax: an alias (*) of what has no name"}},
		{"of both steps, in the order of lines", "stylus:\n  registryCredentials: {domain: r.io/x:1}\n  externalRegistries: {registryMappingRules: {quay.io: 5}}\n", []string{
			`FILE:2: stylus.registryCredentials.domain: "r.io/x:1" has a tag`, "FILE:3: stylus.externalRegistries.registryMappingRules.quay.io: is a number"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := convert.Convert("FILE", []byte(tt.text), "/secrets", false)
			got := strings.Split(fmt.Sprint(err), "\n")
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) || strings.Contains(got[0], "hunter2") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Whatever stands in a text, it is the same in TOML, and a comment stays a comment.
func TestQuoting(t *testing.T) {
	const text = "stylus:\n  externalRegistries:\n    registries:\n" +
		"      - {domain: a.io, repositoryName: \"q\\\"\\\\ '''\\t\\x7f\\0é\\u2028\", username: \"u\\\"x\", password: \"p\\\"'\\\\\"}\n" +
		"      - {domain: \"[::1]:5000\", username: \"#\", password: three}\n"
	got, result := converttest.RoundTrip(t, "a\nb\xff.yaml", text)
	if len(got.Registries) != 2 {
		t.Fatalf("got %+v, want 2 registries", got.Registries)
	}
	r := got.Registries[0]
	if name := "q\"\\ '''\t\x7f\x00é\u2028"; r.Name != name || r.Credential.Username != `u"x` || r.Credential.Password.Reveal() != `p"'\` {
		t.Errorf("got name %q, user %q, password %q", r.Name, r.Credential.Username, r.Credential.Password.Reveal())
	}
	if first, _, _ := strings.Cut(string(result.TOML), "\n"); first != "# Converted from a?b?.yaml by `berth config convert`." {
		t.Errorf("got the first line %q", first)
	}
}

// Two registries whose domains give the same name have files of their own.
func TestSecretPathsDiffer(t *testing.T) {
	const text = "stylus: {externalRegistries: {registries: [{domain: a.io:80, username: u, password: one}, {domain: a.io:80/x, username: u, password: two}, {domain: a.io/80, username: u, password: three}]}}"
	got, result := converttest.RoundTrip(t, "FILE", text)
	for i, want := range []string{"one", "two", "three"} {
		if p := got.Registries[i].Credential.Password.Reveal(); p != want {
			t.Errorf("registry %d: got password %q, want %q", i, p, want)
		}
	}
	for i, want := range []string{"a.io_80.password", "a.io_80_x.password", "a.io_80-2.password"} {
		if name := filepath.Base(result.Secrets[i].Path); name != want {
			t.Errorf("got %s, want %s", name, want)
		}
	}
}

// Certificates that are files of the node, and not here, are named and not checked; what can be checked is.
func TestFilesOfTheNode(t *testing.T) {
	const text = "configs:\n  r.io:\n    tls: {ca_file: /absent/ca.pem, cert_file: /absent/cert.pem, key_file: /absent/key.pem}\n"
	result, err := convert.Convert("FILE", []byte(text), "/secrets", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`certificates = ["/absent/ca.pem"]`, `client_certificate = "/absent/cert.pem"`, `client_key = "/absent/key.pem"`} {
		if !strings.Contains(string(result.TOML), want+"\n") {
			t.Errorf("got no %s in\n%s", want, result.TOML)
		}
	}
	if len(result.Warnings) != 3 || !strings.HasPrefix(result.Warnings[0], "certificates and keys: /absent/ca.pem is not on this machine") {
		t.Errorf("got warnings %q, want one of each file", result.Warnings)
	}
	_, certificate, _ := registrytest.NewAuthority(t).Issue(t, "node")
	half := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(half, []byte(certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	result, err = convert.Convert("FILE", []byte("configs: {r.io: {tls: {cert_file: "+half+", key_file: /absent/key.pem}}}"), "/secrets", false)
	if err != nil || len(result.Warnings) != 1 || !strings.Contains(string(result.TOML), "client_key = \"/absent/key.pem\"\n") {
		t.Errorf("got %v, warnings %q and\n%s\nof a key that is on the node alone, want it named", err, result.Warnings, result.TOML)
	}
	bad := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bad, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = convert.Convert("FILE", []byte("configs: {r.io: {tls: {ca_file: "+bad+"}}}"), "/secrets", false)
	if want := "FILE:1: configs.r.io.tls.ca_file[0]: " + bad + ": no certificate found"; !strings.HasPrefix(fmt.Sprint(err), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A secret is readable by its owner alone, takes the place of what was there, and is not written where others can write.
func TestWriteSecret(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "secrets")
	s := convert.Secret{Path: filepath.Join(dir, "r.io.password"), Value: "hunter2"}
	for range 2 {
		if err := s.Write(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(s.Path, 0o644); err != nil { // as a former one may be
			t.Fatal(err)
		}
	}
	if err := s.Write(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{s.Path: 0o600, dir: 0o700 | os.ModeDir} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v, want mode %v", path, info, err, want)
		}
	}
	text, err := os.ReadFile(s.Path)
	if err != nil || string(text) != "hunter2\n" {
		t.Errorf("got %q, %v, want the secret", text, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want the secret alone", entries, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(); err == nil || !strings.Contains(err.Error(), "others can write to it") {
		t.Errorf("got %v, want that others can write to %s", err, dir)
	}
}

// Whatever a file holds, it is converted to what can be read again, or refused with the name of the file on every line; and
// nothing panics or grows without bound.
func FuzzConvert(f *testing.F) {
	for _, text := range []string{
		"", "stylus:\n", "stylus: {registryCredentials: {domain: r.io, username: u, password: p, insecure: true}}",
		"stylus:\n  externalRegistries:\n    registries:\n    - {domain: r.io, repositoryName: \"a\\0\\n'''\", encodedPassword: aHVudGVyMg==, username: u, certificates: [x]}\n    registryMappingRules: {quay.io: r.io/q, \"*\": s.io}\n",
		"stylus: &a {registryCredentials: *a, <<: *a}", "stylus: {registryCredentials: {<<: {domain: r.io}, username: !x y, password: 5}}",
		"mirrors:\n  docker.io: {endpoint: [https://r.io/v2/x, http://s.io, localhost:1], rewrite: {\"^a/(.*)\": \"b/$1\", \"^\": \"c/\"}}\n  \"*\": {endpoint: [https://r.io]}\nconfigs:\n  r.io: {auth: {auth: dTpw}, tls: {insecure_skip_verify: true}}\n",
		"configs: {\"[::1]:5000\": {auth: {identity_token: t}}, \"*\": {}}", "mirrors: {r.io: {endpoint: [\"http://r.io\", \"https://r.io:443\"], rewrite: {\"(.*)\": \"x/$1\"}}}", "stylus: ***", "a: [*b, &b c]\n---\n",
	} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		result, err := convert.Convert("FILE", text, "/secrets", false)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "FILE:") {
					t.Errorf("got %q of %q, want a line that begins with the file", line, text)
				}
			}
			return
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.toml", os.Getpid()))
		if err := os.WriteFile(path, result.TOML, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := config.LoadFile(path)
		absent := slices.ContainsFunc(result.Warnings, func(w string) bool { return strings.Contains(w, "is not on this machine") })
		if err != nil && !absent {
			t.Errorf("got %v of\n%s\nwant what can be read, of %q", err, result.TOML, text)
		}
		if n := len(again.Registries); err == nil && len(result.Secrets) > n {
			t.Errorf("got %d secrets for %d registries", len(result.Secrets), n)
		}
	})
}
