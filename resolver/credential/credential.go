// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package credential holds what authenticates to one registry, and what finds it.
//
// A [Credential] belongs to the registry that it was configured for. Getting none is not an error; failing to
// get one that was configured is, and is never turned into an anonymous pull: see [ErrUnavailable].
package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
)

// ErrUnavailable is returned for a credential that was configured and could not be obtained. It ends a pull; the
// next target is not tried.
var ErrUnavailable = errors.New("credential unavailable")

// IdentityToken, as a username, says that the password is an identity token (an OAuth2 refresh token), by the
// convention of docker's credential helpers.
const IdentityToken = "<token>"

// maxSecretFile is the size above which a password file is taken for a mistake.
const maxSecretFile = 64 << 10

// Secret is text that is never printed: every way of formatting it gives ***.
type Secret string

// String returns ***.
func (Secret) String() string { return "***" }

// GoString returns ***, for %#v.
func (Secret) GoString() string { return "***" }

// Format writes ***, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "***") }

// MarshalText returns ***, for JSON and logs. go-toml does not ask for it: a Secret is never to be written as TOML.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// A Credential is a username and a password. The zero value is none: an anonymous pull.
type Credential struct {
	// Username is [IdentityToken] when Password is an identity token.
	Username string
	Password Secret
}

// IsZero reports whether there is no credential.
func (c Credential) IsZero() bool { return c.Username == "" && c.Password == "" }

// Secrets returns the forms in which c's secret travels, and in which a server may quote it, for redaction.
func (c Credential) Secrets() []string {
	if c.Password == "" {
		return nil
	}
	p := c.Password.Reveal()
	secrets := []string{p, base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + p)), url.QueryEscape(p), url.PathEscape(p)}
	for _, html := range []bool{false, true} {
		var quoted strings.Builder
		encoder := json.NewEncoder(&quoted)
		encoder.SetEscapeHTML(html)
		if err := encoder.Encode(p); err == nil {
			if s := quoted.String()[1 : quoted.Len()-2]; !slices.Contains(secrets, s) {
				secrets = append(secrets, s)
			}
		}
	}
	return secrets
}

// A Keychain finds the credential of one registry.
type Keychain interface {
	// Credential returns the credential, or the zero value if there is none. It is called again after a
	// registry refused what it returned. An error wraps [ErrUnavailable].
	Credential(context.Context) (Credential, error)
}

// A Source is where an operator said the credential of a registry comes from. The zero value is none.
type Source struct {
	Username string
	// Password is the password itself; at most one of Password and PasswordFile is set.
	Password Secret
	// PasswordFile holds the password; one newline at its end is dropped. It is read whenever it is needed.
	PasswordFile string
}

var _ Keychain = Source{}

// Kind names the source as `berth explain` prints it: "none" or "password".
func (s Source) Kind() string {
	if s.Username == "" {
		return "none"
	}
	return "password"
}

// Credential implements [Keychain].
func (s Source) Credential(context.Context) (Credential, error) {
	if s.PasswordFile == "" {
		return Credential{s.Username, s.Password}, nil
	}
	password, err := readSecret(s.PasswordFile)
	if err != nil {
		return Credential{}, fmt.Errorf("read password_file: %w: %w", err, ErrUnavailable)
	}
	return Credential{s.Username, password}, nil
}

func readSecret(path string) (Secret, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return "", fmt.Errorf("%s: is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecretFile {
		return "", fmt.Errorf("%s: larger than %d bytes; want a password and nothing else", path, maxSecretFile)
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if err := CheckSecret(s); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return Secret(s), nil
}

// CheckSecret reports what makes s unfit for a password: it is empty, or has a control character, which HTTP
// cannot carry (RFC 7617). The error does not quote s.
func CheckSecret(s string) error {
	if s == "" {
		return errors.New("is empty; want a password")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("has a newline or another control character; want one line of text")
	}
	return nil
}
