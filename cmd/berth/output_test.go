// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is logged while a command works is said as docs/commands.md has it: not in the daemon's manner, and not with --quiet.
func TestLoggedWarning(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	password := filepath.Join(t.TempDir(), "password")
	file := filepath.Join(t.TempDir(), "registry.toml")
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(password, "secret\n", 0o644)
	write(file, fmt.Sprintf("[[registries]]\ndomain = %q\ninsecure = true\nusername = \"node\"\npassword_file = %q\n", host, password), 0o600)
	want := fmt.Sprintf("warning: password_file: %[1]s has mode 0644, want 0600: others can read the secret in it; chmod 600 %[1]s\n", password)
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"text", nil, want},
		{"quiet", []string{"--quiet"}, ""},
		{"json", []string{"--output", "json", "--quiet"}, want},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append([]string{"berth", "check", "--config", file}, tc.args...)
			if code := run(t.Context(), append(args, host+"/a:1"), &stdout, &stderr); code != 1 || stderr.String() != tc.want {
				t.Errorf("got exit status %d and %q, want 1 and %q", code, &stderr, tc.want)
			}
		})
	}
}
