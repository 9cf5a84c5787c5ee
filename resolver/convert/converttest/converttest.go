// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package converttest checks that a converted file means what the original does.
package converttest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/convert"
	"github.com/berth-edge/berth/resolver/credential"
)

// RoundTrip converts a file, writes what comes of it, and returns that as a node reads it, with passwords as if they stood in
// the file. It fails t if a password does, or if the result cannot be read.
func RoundTrip(t testing.TB, file, text string) (resolver.Config, convert.Result) {
	t.Helper()
	dir := t.TempDir()
	result, err := convert.Convert(file, []byte(text), filepath.Join(dir, "secrets"), true)
	if err != nil {
		t.Fatalf("convert: %v", err)
	}
	for _, s := range result.Secrets {
		if err := s.Write(); err != nil {
			t.Fatal(err)
		}
		if secret := s.Value.Reveal(); len(secret) > 6 && bytes.Contains(result.TOML, []byte(secret)) {
			t.Errorf("got the secret of %s in\n%s", s.Origin, result.TOML)
		}
	}
	path := filepath.Join(dir, "converted.toml")
	if err := os.WriteFile(path, result.TOML, 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.LoadFile(path)
	if err != nil {
		t.Fatalf("read the result:\n%v\n%s", err, result.TOML)
	}
	for i := range loaded.Registries {
		source := &loaded.Registries[i].Credential
		if source.PasswordFile == "" {
			continue
		}
		password, err := os.ReadFile(source.PasswordFile)
		if err != nil {
			t.Fatal(err)
		}
		source.Password, source.PasswordFile = credential.Secret(strings.TrimSuffix(string(password), "\n")), ""
	}
	return loaded.Config, result
}
