// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A Source is where an operator said the credential of a registry comes from. The zero value is none. It is a plain value:
// two that are equal make the same [Keychain].
type Source struct {
	// Username has either a Password or a PasswordFile, and excludes DockerConfig, Helper and Provider, as they do each other.
	Username string
	// Password is the password itself.
	Password Secret
	// PasswordFile holds the password; one newline at its end is dropped.
	PasswordFile string
	// DockerConfig is the path of docker's config.json, or containers' auth.json. Like PasswordFile it is read when it is
	// needed and has changed; as long as what it holds cannot be used, what it held before is.
	DockerConfig string
	// Helper is the name of a docker credential helper, without docker-credential-.
	Helper string
	// Provider is a credential provider of kubelet's.
	Provider Provider
	// HelperDirs are the directories where helpers are looked for, separated by colons. Empty is [DefaultHelperDirs].
	HelperDirs string
	// HelperTimeout bounds one run of a helper. Zero is 10 seconds.
	HelperTimeout time.Duration
	// StrictPermissions refuses a file with a secret that others can read. One that others can write is always refused, as
	// is such a helper.
	StrictPermissions bool
}

// Kind names the source as `berth explain` prints it: "none", "password", or "helper:" and the name of the helper or
// provider. DockerConfig is "password", also where it names helpers: which these are may change with the file.
func (s Source) Kind() string {
	switch {
	case s.Helper != "":
		return "helper:" + s.Helper
	case s.Provider.Program != "":
		return "helper:" + programBase(s.Provider.Program)
	case s.Username != "", s.DockerConfig != "":
		return "password"
	}
	return "none"
}

func programBase(program string) string { return filepath.Base(program) }

// Keychain returns what finds the credential of s. It is made once for a registry, since it remembers what it found.
func (s Source) Keychain() Keychain {
	switch {
	case s.DockerConfig != "":
		return &dockerKeychain{file: s.dockerConfig(), programs: s.programs(), helpers: map[string]*shared{}}
	case s.Helper != "":
		return newShared(dockerHelper{s.programs(), s.Helper}.ask)
	case s.Provider.Program != "":
		return newProviderKeychain(s.Provider, s.programs())
	case s.PasswordFile != "":
		return &passwordFile{s.Username, s.passwordFile()}
	}
	return fixed{s.Username, s.Password}
}

func (s Source) passwordFile() *file[Secret] {
	return newFile("password_file", s.PasswordFile, maxSecretFile, s.StrictPermissions, func(b []byte) (Secret, error) {
		return parsePassword(s.Username, b)
	})
}

func (s Source) dockerConfig() *file[dockerConfig] {
	return newFile("docker_config", s.DockerConfig, maxDockerConfig, s.StrictPermissions, parseDockerConfig)
}

func (s Source) programs() *programs { return newPrograms(s.HelperDirs, s.HelperTimeout) }

// Check looks at what s names without running anything. Warnings are of what fails, or is not safe, as things are now, and
// may change without the configuration: files and helpers may come later. The error is of what can never work; it begins
// with the key that it is about.
func (s Source) Check() (warnings []string, err error) {
	warn := func(key string, err error) {
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("%s: %v", key, err))
		}
	}
	switch {
	case s.DockerConfig != "":
		f := s.dockerConfig()
		readable, err := f.check()
		warn(f.key, err)
		warn(f.key, readable)
		for _, name := range f.value.programs() {
			_, err := s.programs().find(helperPrefix + name)
			warn(fmt.Sprintf("%s: helper %q", f.key, helperPrefix+name), err)
		}
	case s.Helper != "":
		if err := CheckProgram(s.Helper); err != nil {
			return nil, fmt.Errorf("credential_helper: %w", err)
		}
		_, err := s.programs().find(helperPrefix + s.Helper)
		warn(fmt.Sprintf("credential_helper: %q", helperPrefix+s.Helper), err)
	case s.Provider.Program != "":
		if err := s.Provider.check(); err != nil {
			return nil, fmt.Errorf("credential_provider: %w", err)
		}
		_, err := s.programs().find(s.Provider.Program)
		warn(fmt.Sprintf("credential_provider: %q", programBase(s.Provider.Program)), err)
	case s.PasswordFile != "":
		f := s.passwordFile()
		readable, err := f.check()
		warn(f.key, err)
		warn(f.key, readable)
	}
	return warnings, nil
}

// fixed is a credential that never changes.
type fixed Credential

// Credential implements [Keychain].
func (f fixed) Credential(context.Context, string, Credential) (Credential, error) {
	return Credential(f), nil
}

// environ returns what a helper gets of this process's environment.
func environ() []string {
	var env []string
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		} else if name == "HOME" { // a service has none, and helpers end without one
			env = append(env, "HOME=/root")
		}
	}
	return env
}
