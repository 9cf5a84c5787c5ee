// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package credential holds what authenticates to one registry, and what finds it.
//
// A [Credential] belongs to the registry that it was configured for. Getting none is not an error; failing to
// get one that was configured is, and is never turned into an anonymous pull: see [ErrUnavailable].
//
// Where it comes from is a [Source]: a password, a file with one, docker's config.json, a docker credential helper, or a
// credential provider of kubelet's. [Source.Keychain] makes of it what remembers: files are read again when they changed,
// and helpers run once for all pulls that may share an answer.
package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"
)

// ErrUnavailable is returned for a credential that was configured and could not be obtained. It ends a pull; the
// next target is not tried.
var ErrUnavailable = errors.New("credential unavailable")

// IdentityToken, as a username, says that the password is an identity token (an OAuth2 refresh token), by the
// convention of docker's credential helpers.
const IdentityToken = "<token>"

// RegistryToken, as a username, says that the password is a token for the registry itself: it is sent as it is, and not
// exchanged at a token server (`registrytoken` of docker's config.json).
const RegistryToken = "<registrytoken>"

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
	// Username is [IdentityToken] or [RegistryToken] when Password is such a token.
	Username string
	Password Secret
}

// IsToken reports whether the password is a token, and the username none.
func (c Credential) IsToken() bool { return c.Username == IdentityToken || c.Username == RegistryToken }

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

// A Keychain finds the credential of one registry. It is safe for concurrent use.
type Keychain interface {
	// Credential returns the credential for an image of the registry, or the zero value if there is none. The image is
	// host/repository, without tag and digest, as it is asked for there (after rewriting); the host alone asks for what is
	// good for all. Refused is what the registry just refused, zero on a first ask: an answer that is remembered and equal to
	// it is fetched anew; it may be returned again if there is no other. An error wraps [ErrUnavailable].
	Credential(ctx context.Context, image string, refused Credential) (Credential, error)
}

// A Versioned keychain is one whose credentials an operator may change while it is in use.
type Versioned interface {
	Keychain
	// Version grows with every change. It is asked for often, and runs no helper.
	Version(ctx context.Context) int
}

// A Trouble is why a file that a credential comes from cannot be used as it is now.
type Trouble struct {
	// Text begins with the key that names the file, and has no secret.
	Text string
	// Since is when that was found.
	Since time.Time
	// Kept says that what the file held before is in use; otherwise there is no credential, and pulls fail.
	Kept bool
}

// A Troubled keychain is one that may be in trouble.
type Troubled interface {
	Keychain
	// Trouble looks at what the keychain goes by. It is false if all is well.
	Trouble(ctx context.Context) (Trouble, bool)
}

// jsonKey is the username by which Google's registries take the key of a service account for a password: the JSON file as it is,
// of many lines (https://cloud.google.com/artifact-registry/docs/docker/authentication#json-key).
const jsonKey = "_json_key"

// CheckPassword reports what makes s unfit for the password of username: it is empty, or has a control character, which HTTP
// cannot carry (RFC 7617) and is a mistake but in a key file of Google's. The error does not quote s.
func CheckPassword(username, s string) error {
	if username == jsonKey {
		s = strings.NewReplacer("\n", "", "\r", "", "\t", "").Replace(s)
	}
	if s == "" {
		return errors.New("is empty; want a password")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("has a newline or another control character; want one line of text")
	}
	return nil
}
