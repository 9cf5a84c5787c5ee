// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// C14, SEC-09: a file with a password that becomes unreadable, or is refused, while containerd runs is shown until it is mended,
// and so is what else there is to say of it; nothing is shown of what it holds.
func TestStatusOfCredentials(t *testing.T) {
	for _, kind := range []struct{ key, other, text string }{
		{"password_file", "username = \"u\"\n", "hunter2\n"},
		{"docker_config", "", `{"auths":{"r.io":{"username":"u","password":"hunter2"}}}`},
	} {
		t.Run(kind.key, func(t *testing.T) {
			dir := t.TempDir()
			secret := filepath.Join(dir, "secret")
			writeFile(t, dir+"/a.toml", fmt.Sprintf("[[registries]]\ndomain = \"r.io\"\n%s%s = %q\n", kind.other, kind.key, secret))
			r, ctx, _ := newResolver(t, dir+"/*.toml")
			absent := kind.key + ": " + secret + ": no such file or directory"
			var since time.Time
			for _, step := range []struct {
				name          string
				do            func() error
				bad           string // begins the error
				kept, as      bool   // as: since when the step before was
				wantedWarning string
			}{
				{"absent", func() error { return nil }, absent, false, false, ""},
				{"still absent", func() error { return nil }, absent, false, true, ""},
				{"written", func() error { return os.WriteFile(secret, []byte(kind.text), 0o600) }, "", false, false, ""},
				{"open to readers", func() error { return os.Chmod(secret, 0o644) }, "", false, false, "registry r.io: " + kind.key + ": " + secret + " has mode 0644, want 0600"},
				{"open to writers", func() error { return os.Chmod(secret, 0o602) }, kind.key + ": " + secret + " has mode 0602: others can write to it", true, false, ""},
				{"cut short", func() error { return errors.Join(os.Chmod(secret, 0o600), os.Truncate(secret, 0)) }, kind.key + ": " + secret + ": ", true, true, ""},
				{"mended", func() error { return os.WriteFile(secret, []byte(kind.text), 0o600) }, "", false, false, ""},
				{"deleted", func() error { return os.Remove(secret) }, absent, true, false, ""},
			} {
				if err := step.do(); err != nil {
					t.Fatal(err)
				}
				s := r.status(ctx)
				switch {
				case step.bad == "":
					if len(s.Credentials) > 0 {
						t.Errorf("%s: got %v, want none", step.name, s.Credentials)
					}
				case len(s.Credentials) != 1:
					t.Fatalf("%s: got %v, want one", step.name, s.Credentials)
				default:
					c := s.Credentials[0]
					if c.Registry != "r.io" || !strings.HasPrefix(c.Error, step.bad) || c.Kept != step.kept || strings.Contains(c.Error, "hunter2") {
						t.Errorf("%s: got %v, want %s, kept %v", step.name, c, step.bad, step.kept)
					}
					if got := c.Since.AsTime(); got.Equal(since) != step.as || got.After(time.Now()) {
						t.Errorf("%s: got since %s after %s, want the same: %v", step.name, got, since, step.as)
					}
					since = c.Since.AsTime()
				}
				if step.wantedWarning == "" && len(s.Warnings) > 0 || step.wantedWarning != "" && !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.HasPrefix(w, step.wantedWarning) }) {
					t.Errorf("%s: got warnings %q, want %q", step.name, s.Warnings, step.wantedWarning)
				}
			}
		})
	}
}
