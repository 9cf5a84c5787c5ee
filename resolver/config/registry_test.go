// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/strict"
)

const secret = "hunter2"

// registryText is a registry with more keys, a line each from line 3.
func registryText(keys ...string) string {
	return "[[registries]]\ndomain = \"r.io/p\"\n" + strings.Join(keys, "\n") + "\n"
}

// D5 and DESIGN 4: what authenticates is whole or an error, and no error has the secret.
func TestCredentialMistakes(t *testing.T) {
	encoded := base64.StdEncoding.EncodeToString([]byte(secret))
	for _, tt := range []struct {
		name string
		keys []string
		want []string
	}{
		{"two passwords", []string{`username = "u"`, `password = "hunter2"`, `password_file = "/x"`}, []string{"5: registries[0].password_file: stands beside password; keep one of them"}},
		{"two passwords, encoded", []string{`username = "u"`, `password = "hunter2"`, `encoded_password = "` + encoded + `"`}, []string{"5: registries[0].encoded_password: stands beside password"}},
		{"username alone", []string{`username = "u"`}, []string{"3: registries[0].username: has no password; add password_file, password or encoded_password"}},
		{"password alone", []string{`password = "hunter2"`}, []string{`3: registries[0].password: has no username; add it ("<token>" for an identity token)`}},
		{"empty username", []string{`username = ""`, `password = "hunter2"`}, []string{"4: registries[0].password: has no username"}},
		{"empty password", []string{`username = "u"`, `password = ""`}, []string{"4: registries[0].password: is empty; want a password"}},
		{"empty password_file", []string{`username = "u"`, `password_file = ""`}, []string{"4: registries[0].password_file: is not an absolute path"}},
		{"the password as password_file", []string{`username = "u"`, `password_file = "hunter2"`}, []string{"4: registries[0].password_file: is not an absolute path"}},
		{"password of two lines", []string{`username = "u"`, `password = "hunter2\nhunter2"`}, []string{"4: registries[0].password: has a newline or another control character"}},
		{"not base64", []string{`username = "u"`, `encoded_password = "hunter2!"`}, []string{"4: registries[0].encoded_password: is not base64"}},
		{"base64 of nothing", []string{`username = "u"`, `encoded_password = "Cg=="`}, []string{"4: registries[0].encoded_password: is empty"}},
		{"base64 of binary", []string{`username = "u"`, `encoded_password = "AAEC"`}, []string{"4: registries[0].encoded_password: has a newline or another control"}},
		{"password is a number", []string{`username = "u"`, `password = 12345`}, []string{"4: registries[0].password: is a number; want text in quotes"}},
		{"username is a number", []string{`username = 5`, `password = "hunter2"`}, []string{"3: registries[0].username: is a number; want text in quotes"}},
		{"username with a colon", []string{`username = "u:hunter2"`, `password = "x"`}, []string{"3: registries[0].username: has a colon or a newline"}},
		{"password without quotes", []string{`username = "u"`, `password = hunter2`}, []string{"4: TOML syntax: a value begins with an unexpected character; text wants quotes"}},
		{"password in the domain", []string{`[[registries]]`, `domain = "https://u:hunter2@s.io/p"`}, []string{"4: registries[1].domain: has an @ in its host; a user and a password belong in username and password_file"}},
		{"password in a realm", []string{`token_realms = ["u:hunter2@s.io"]`}, []string{"3: registries[0].token_realms: element 1 is not a host"}},
		{"password in a bad proxy", []string{`proxy = "http//u:hunter2@p"`}, []string{"3: registries[0].proxy: is not a URL"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantProblems(t, problemsOf(t, registryText(tt.keys...)), tt.want)
		})
	}
}

func wantProblems(t *testing.T, got, want []string) {
	t.Helper()
	all := strings.Join(got, "\n")
	if len(got) != len(want) {
		t.Fatalf("got %d problems, want %d:\n%s", len(got), len(want), all)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
	for _, text := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), "12345"} {
		if strings.Contains(all, text) {
			t.Errorf("got the secret in %s", all)
		}
	}
}

// D14: what `containerd config dump` would print is refused in the stanza.
func TestStanzaRefusesSecrets(t *testing.T) {
	cert, key := keyPair(t, time.Hour)
	registry := func(values map[string]any) strict.Stanza {
		values["domain"] = "r.io"
		return stanza(map[string]any{"registries": []any{values}})
	}
	for _, tt := range []struct {
		name   string
		values map[string]any
		want   string
	}{
		{"password", map[string]any{"username": "u", "password": secret}, "password: `containerd config dump` would print it; use password_file"},
		{"encoded_password", map[string]any{"username": "u", "encoded_password": "aHVudGVyMg=="}, "encoded_password: `containerd config dump` would print it"},
		{"client_key", map[string]any{"client_certificate": cert, "client_key": key}, "client_key: `containerd config dump` would print it; name a file"},
		{"proxy", map[string]any{"proxy": "http://u:" + secret + "@p:1"}, "proxy: has a password, which `containerd config dump` would print"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Load(registry(tt.values))
			wantProblems(t, lines(err, "STANZA: registries[0]."), []string{tt.want})
		})
	}
	if _, err := config.Load(registry(map[string]any{"username": "u", "password_file": "/etc/berth/password"})); err != nil {
		t.Errorf("password_file: got %v, want none", err)
	}
}

// keyPair is a self-signed certificate and its key, as PEM.
func keyPair(t testing.TB, validFor time.Duration) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(validFor)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// A10, A11, SEC-24, T3, T4: certificates and keys are read at once, and no error has a key.
func TestCertificateMistakes(t *testing.T) {
	cert, key := keyPair(t, time.Hour)
	other, _ := keyPair(t, time.Hour)
	encrypted := strings.ReplaceAll(key, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
	naked := strings.Split(key, "\n")[1] // a key without its head line
	empty, absent := write(t, "empty.pem", ""), "/absent/ca.pem"
	keyFile := write(t, "key.pem", key)
	block, _ := pem.Decode([]byte(cert))
	der := write(t, "ca.der", string(block.Bytes))
	large := write(t, "large.pem", cert+strings.Repeat("#", 10<<20))
	list := func(texts ...string) string {
		for i, text := range texts {
			texts[i] = fmt.Sprintf("%q", text)
		}
		return "certificates = [" + strings.Join(texts, ", ") + "]"
	}
	pair := func(cert, key string) string {
		return fmt.Sprintf("client_certificate = %q\nclient_key = %q", cert, key)
	}
	for _, tt := range []struct{ name, keys, want string }{
		{"absent", list(absent), "3: registries[0].certificates[0]: /absent/ca.pem: cannot be read: no such file or directory"},
		{"empty file", list(cert, empty), "3: registries[0].certificates[1]: " + empty + ": no certificate found; want PEM"},
		{"DER", list(der), "3: registries[0].certificates[0]: " + der + ": no certificate found; want PEM, which begins with -----BEGIN CERTIFICATE-----"},
		{"10 MiB", list(large), "3: registries[0].certificates[0]: " + large + ": is larger than 4194304 bytes"},
		{"a key", list(keyFile), "3: registries[0].certificates[0]: " + keyFile + ": no certificate found (contains PRIVATE KEY)"},
		{"second cut off", list(cert + other[:len(other)/2]), "3: registries[0].certificates[0]: 1 of 2 certificates can be read; is one cut off"},
		{"no line break between", list(strings.TrimSpace(cert) + other), "3: registries[0].certificates[0]: 0 of 2 certificates can be read; is one cut off, or is a line break missing before -----BEGIN?"},
		{"a key as text", list(key), "3: registries[0].certificates[0]: no certificate found (contains PRIVATE KEY)"},
		{"a key without its head line", list(naked), "3: registries[0].certificates[0]: is neither PEM text nor an absolute path"},
		{"relative path", list("ca.pem"), "3: registries[0].certificates[0]: is neither PEM text nor an absolute path"},
		{"directory", list("/etc"), "3: registries[0].certificates[0]: /etc: "},
		{"certificate without key", fmt.Sprintf("client_certificate = %q", cert), "3: registries[0].client_certificate: wants client_key beside it"},
		{"key without certificate", fmt.Sprintf("client_key = %q", key), "3: registries[0].client_key: wants client_certificate beside it"},
		{"key of another certificate", pair(other, key), "3: registries[0].client_certificate: client key does not match certificate"},
		{"encrypted key", pair(cert, encrypted), "3: registries[0].client_certificate: client key is encrypted; want one without a passphrase"},
		{"client key without its head line", pair(cert, naked), "4: registries[0].client_key: is neither PEM text nor an absolute path"},
		{"empty client key", pair(cert, ""), "4: registries[0].client_key: is neither PEM text nor an absolute path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := problemsOf(t, registryText(tt.keys))
			wantProblems(t, got, []string{tt.want})
			if strings.Contains(strings.Join(got, "\n"), naked) {
				t.Errorf("got the key in %q", got)
			}
		})
	}
	text := registryText(list(cert+other, write(t, "ca.pem", cert)), pair(cert, keyFile))
	if got := problemsOf(t, text); len(got) > 0 {
		t.Errorf("good certificates: got %q", got)
	}
}

func TestExpiredCertificateIsAWarning(t *testing.T) {
	cert, _ := keyPair(t, -time.Hour)
	loaded, err := config.LoadFile(write(t, "berth.toml", registryText(fmt.Sprintf("certificates = [%q]", cert))))
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.Warnings) != 1 || !strings.HasPrefix(loaded.Warnings[0], "registry r.io/p: certificate CN=test expired at 2") {
		t.Errorf("got warnings %q, want one that it expired", loaded.Warnings)
	}
}
