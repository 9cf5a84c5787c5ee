// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import "context"

// A Source is where an operator said the credential of a registry comes from. The zero value is none. It is a plain value:
// two that are equal make the same [Keychain].
type Source struct {
	Username string
	// Password is the password itself; at most one of Password and PasswordFile is set.
	Password Secret
	// PasswordFile holds the password; one newline at its end is dropped. It is read when it is needed and has changed.
	PasswordFile string
	// StrictPermissions refuses a file with a secret that others can read. One that others can write is always refused.
	StrictPermissions bool
}

// Kind names the source as `berth explain` prints it: "none" or "password".
func (s Source) Kind() string {
	if s.Username == "" {
		return "none"
	}
	return "password"
}

// Keychain returns what finds the credential of s. It is made once for a registry, since it remembers what it found.
func (s Source) Keychain() Keychain {
	if s.PasswordFile != "" {
		return &passwordFile{s.Username, newFile("password_file", s.PasswordFile, maxSecretFile, s.StrictPermissions, parsePassword)}
	}
	return fixed{s.Username, s.Password}
}

// fixed is a credential that never changes.
type fixed Credential

// Credential implements [Keychain].
func (f fixed) Credential(context.Context, string, Credential) (Credential, error) {
	return Credential(f), nil
}
