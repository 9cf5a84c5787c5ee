// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/berth-edge/berth/resolver/credential"
)

const password = "hunter2"

// SEC-08: no way of formatting a secret, or what holds one, gives it away.
func TestSecretIsNeverPrinted(t *testing.T) {
	secret := credential.Secret(password)
	c := credential.Credential{Username: "u", Password: secret}
	source := credential.Source{Username: "u", Password: secret}
	forms := []string{password, fmt.Sprintf("%x", password), fmt.Sprintf("%X", password), fmt.Sprintf("% x", password), fmt.Sprintf("%v", []byte(password))}
	check := func(how, text string) {
		t.Helper()
		for _, form := range forms {
			if strings.Contains(text, form) {
				t.Errorf("%s: got the secret in %q", how, text)
			}
		}
		if !strings.Contains(text, "***") {
			t.Errorf("%s: got %q, want *** in it", how, text)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%c", "%U", "%10s"} {
		for _, value := range []any{secret, &secret, c, &c, source, []credential.Secret{secret}, map[string]credential.Secret{"k": secret}, struct{ S any }{secret}} {
			check(fmt.Sprintf("%s of %T", verb, value), fmt.Sprintf(verb, value))
		}
	}
	check("Sprint", fmt.Sprint(secret))
	check("String", secret.String())
	check("error", fmt.Errorf("x: %v %w", c, errors.New("y")).Error())
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	check("JSON", string(text))
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "secret", secret, "credential", c)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "secret", secret, "credential", c)
	logger := logrus.New()
	logger.Out = &b
	logger.WithField("secret", secret).WithField("credential", c).Info("x")
	check("log", b.String())
	if got := secret.Reveal(); got != password {
		t.Errorf("revealed: got %q, want %q", got, password)
	}
}

// Secrets are the forms in which a credential travels, so that they can be taken out of texts.
func TestSecrets(t *testing.T) {
	c := credential.Credential{Username: "u", Password: "p w/ö"}
	got := strings.Join(c.Secrets(), " | ")
	if want := "p w/ö | dTpwIHcvw7Y= | p+w%2F%C3%B6 | p%20w%2F%C3%B6"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// JSON has quotes, and by some writers angle brackets, in a form of its own.
	for _, want := range []string{`a\"b<c`, `a\"b\u003cc`} {
		if got := (credential.Credential{Username: "u", Password: `a"b<c`}).Secrets(); !slices.Contains(got, want) {
			t.Errorf("got %q, want %s among them", got, want)
		}
	}
	if got := (credential.Credential{}).Secrets(); len(got) > 0 {
		t.Errorf("no credential: got %q, want none", got)
	}
}

func TestSource(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	for _, tt := range []struct{ name, content, want string }{
		{"plain", "hunter2", "hunter2"},
		{"newline at the end", "hunter2\n", "hunter2"},
		{"newline of Windows", "hunter2\r\n", "hunter2"},
		{"byte order mark", "\xef\xbb\xbfhunter2\r\n", "hunter2"},
		{"spaces are kept", " hunter 2 ", " hunter 2 "},
		{"other letters", "pässwörd", "pässwörd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := credential.Source{Username: "u", PasswordFile: file}.Keychain().Credential(t.Context(), "reg.test/app", credential.Credential{})
			if err != nil || got.Username != "u" || got.Password.Reveal() != tt.want {
				t.Errorf("got %s with password %q, %v, want %q", got.Username, got.Password.Reveal(), err, tt.want)
			}
		})
	}
	if err := os.WriteFile(file, []byte("{\n  \"a\": 1\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := credential.Source{Username: "_json_key", PasswordFile: file}.Keychain().Credential(t.Context(), "reg.test/app", credential.Credential{})
	if want := "{\n  \"a\": 1\n}"; err != nil || key.Password.Reveal() != want {
		t.Errorf("key file of Google's: got %q, %v, want %q", key.Password.Reveal(), err, want)
	}
	got, err := credential.Source{Username: "u", Password: password}.Keychain().Credential(t.Context(), "reg.test/app", credential.Credential{})
	if err != nil || got.Password.Reveal() != password {
		t.Errorf("password: got %q, %v", got.Password.Reveal(), err)
	}
	if got, err := (credential.Source{}).Keychain().Credential(t.Context(), "reg.test/app", credential.Credential{}); err != nil || !got.IsZero() {
		t.Errorf("none: got %v, %v, want no credential and no error", got, err)
	}
	if got, want := (credential.Source{}).Kind()+" "+(credential.Source{Username: "u"}).Kind(), "none password"; got != want {
		t.Errorf("got kinds %s, want %s", got, want)
	}
}

// A password has one line, but for the key files of Google's, in which another control character is a mistake too.
func TestCheckPassword(t *testing.T) {
	for _, tt := range []struct {
		username, password string
		ok                 bool
	}{
		{"u", "hunter2", true},
		{"u", "", false},
		{"u", "hunter2\n", false},
		{"_json_key", "{\n\t\"a\": 1\r\n}", true},
		{"_json_key", "\n", false},
		{"_json_key", "{\x00}", false},
		{"_json_key_base64", "a\nb", false},
	} {
		if err := credential.CheckPassword(tt.username, tt.password); (err == nil) != tt.ok {
			t.Errorf("%s, %q: got %v, want it accepted: %t", tt.username, tt.password, err, tt.ok)
		}
	}
}

// D7: a file that cannot be a password is an error that ends the pull, names the file, and has nothing of it.
func TestSourceRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, want string }{
		{"absent", filepath.Join(dir, "absent"), "absent: no such file or directory"},
		{"empty", file("empty", ""), "empty: is empty; want a password"},
		{"only a newline", file("newline", "\n"), "newline: is empty; want a password"},
		{"two lines", file("lines", "hunter2\nhunter2\n"), "lines: has a newline or another control character"},
		{"binary", file("binary", "hunter2\x00"), "binary: has a newline or another control character"},
		{"delete", file("delete", "hunter2\x7f"), "delete: has a newline or another control character"},
		{"too large", file("large", strings.Repeat("hunter2", 10_000)), "large: larger than 65536 bytes"},
		{"directory", dir, ": is not a regular file"},
		{"FIFO", fifo, "fifo: is not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := credential.Source{Username: "u", PasswordFile: tt.path}.Keychain().Credential(t.Context(), "reg.test/app", credential.Credential{})
			if !errors.Is(err, credential.ErrUnavailable) || !c.IsZero() {
				t.Fatalf("got %v, %v, want no credential and %v", c, err, credential.ErrUnavailable)
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), password) {
				t.Errorf("got %v, want %q in it, and no password", err, tt.want)
			}
		})
	}
}
