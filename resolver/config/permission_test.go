// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/config"
)

// loadOne loads a configuration of one file.
func loadOne(path string) (config.Loaded, error) { return config.Load(stanza(nil, path)) }

// A7, SEC-09, SEC-10: what others can write is refused; a secret that they can read is warned of, or refused.
func TestPermissions(t *testing.T) {
	cert, key := keyPair(t, 1<<40)
	keyFile := write(t, "key.pem", key)
	if err := os.Chmod(keyFile, 0o640); err != nil {
		t.Fatal(err)
	}
	const withPassword = "[[registries]]\ndomain = \"r.io\"\nusername = \"u\"\npassword = \"hunter2\"\n"
	withKey := fmt.Sprintf("[[registries]]\ndomain = \"r.io\"\nclient_certificate = %q\nclient_key = ", cert)
	for _, tt := range []struct {
		name, text     string
		mode           os.FileMode
		want, warnings string // FILE is the file
	}{
		{"nobody else", withPassword, 0o600, "", ""},
		{"others write, no secret", rule("quay.io", "r.io"), 0o666, "FILE: has mode 0666: others can write to it; chmod go-w FILE", ""},
		{"the group writes", withPassword, 0o660, "FILE: has mode 0660: others can write to it; chmod go-w FILE", ""},
		{"others read no secret", rule("quay.io", "r.io"), 0o644, "", ""},
		{"others read a password", withPassword, 0o644, "", "FILE has mode 0644, want 0600: others can read the secret in it; chmod 600 FILE"},
		{"others read an encoded password", strings.Replace(withPassword, "password = \"hunter2\"", "encoded_password = \"aHVudGVyMg==\"", 1), 0o640, "", "FILE has mode 0640, want 0600"},
		{"others read a key", withKey + fmt.Sprintf("%q", key), 0o604, "", "FILE has mode 0604, want 0600"},
		{"others read a proxy's password", "[[registries]]\ndomain = \"r.io\"\nproxy = \"http://u:hunter2@p:1\"\n", 0o644, "", "FILE has mode 0644, want 0600"},
		{"others read a provider's variable", "[[registries]]\ndomain = \"r.io\"\ncredential_provider = { path = \"/bin/sh\", env = { A = \"hunter2\" }, match_images = [\"r.io\"] }\n", 0o644, "", "FILE has mode 0644, want 0600"},
		{"others read a file with a key", withKey + fmt.Sprintf("%q", keyFile), 0o644, "", keyFile + " has mode 0640, want 0600: others can read the secret in it; chmod 600 " + keyFile},
		{"strict, nobody else", "strict_permissions = true\n" + withPassword, 0o600, "", ""},
		{"strict, others read", "strict_permissions = true\n" + withPassword, 0o644, "FILE:5: registries[0].password: FILE has mode 0644, want 0600", ""},
		{"strict, others read a file with a key", "strict_permissions = true\n" + withKey + fmt.Sprintf("%q", keyFile), 0o644, "FILE:5: registries[0].client_key: " + keyFile + " has mode 0640, want 0600", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, "berth.toml", tt.text)
			if err := os.Chmod(file, tt.mode); err != nil {
				t.Fatal(err)
			}
			loaded, err := loadOne(file)
			got, want := fmt.Sprint(err), strings.ReplaceAll(tt.want, "FILE", file)
			if tt.want == "" && err != nil || tt.want != "" && !strings.HasPrefix(got, want) {
				t.Errorf("got %v, want %q", err, want)
			}
			if got, want := strings.Join(loaded.Warnings, "\n"), strings.ReplaceAll(tt.warnings, "FILE", file); !strings.HasPrefix(got, want) || want == "" && got != "" {
				t.Errorf("got warnings %q, want %q", got, want)
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("got the secret in %s", got)
			}
		})
	}
}

// SEC-10: strict_permissions in one file is for the secrets of all.
func TestStrictPermissionsOfAll(t *testing.T) {
	strict := write(t, "strict.toml", "strict_permissions = true\n")
	open := write(t, "open.toml", "[[registries]]\ndomain = \"r.io\"\nusername = \"u\"\npassword = \"hunter2\"\n")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, paths := range [][]string{{strict, open}, {open, strict}} {
		if _, err := config.Load(stanza(nil, paths...)); err == nil || !strings.Contains(err.Error(), open+" has mode 0644, want 0600") {
			t.Errorf("%q: got %v, want the password refused", paths, err)
		}
	}
}

// SEC-09: who can write a certificate decides whom secrets go to; that others can read one is as it should be. Half of a pair is
// checked as the other is.
func TestPermissionsOfCertificates(t *testing.T) {
	cert, key := keyPair(t, 1<<40)
	for _, tt := range []struct {
		key  string
		mode os.FileMode
		bad  bool
	}{
		{"certificates[0]", 0o644, false},
		{"certificates[0]", 0o664, true},
		{"certificates[0]", 0o646, true},
		{"client_certificate", 0o644, false},
		{"client_certificate", 0o664, true},
		{"client_key", 0o600, false},
		{"client_key", 0o620, true},
	} {
		t.Run(fmt.Sprintf("%s %04o", tt.key, tt.mode), func(t *testing.T) {
			files := map[string]string{"certificates[0]": write(t, "ca.pem", cert), "client_certificate": write(t, "cert.pem", cert), "client_key": write(t, "key.pem", key)}
			if err := os.Chmod(files[tt.key], tt.mode); err != nil {
				t.Fatal(err)
			}
			file := write(t, "berth.toml", fmt.Sprintf("[[registries]]\ndomain = \"r.io\"\ncertificates = [%q]\nclient_certificate = %q\nclient_key = %q\n",
				files["certificates[0]"], files["client_certificate"], files["client_key"]))
			what := fmt.Sprintf("%s has mode %04o: others can write to it; chmod go-w %[1]s", files[tt.key], tt.mode)
			_, err := loadOne(file)
			if tt.bad && (err == nil || !strings.HasSuffix(err.Error(), "registries[0]."+tt.key+": "+what)) || !tt.bad && err != nil {
				t.Errorf("got %v, want %v: %s", err, tt.bad, what)
			}
			loaded, err := config.LoadFile(file)
			if got, want := strings.Join(loaded.Warnings, "\n"), what+"; a node refuses to go by it"; err != nil || strings.Contains(got, want) != tt.bad {
				t.Errorf("LoadFile: got warnings %q, %v, want %v: %q", got, err, tt.bad, want)
			}
		})
	}
}

// A7: a directory that others can write to lets them replace the file; a link counts as what it leads to.
func TestPermissionsAround(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "open"), 0o700); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, "open", "berth.toml")
	if err := os.WriteFile(target, []byte(rule("quay.io", "r.io")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.toml")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{target, link} {
		want := fmt.Sprintf("%s: %s/open has mode 0777: others can write to it; chmod go-w %[2]s/open", path, dir)
		if _, err := loadOne(path); fmt.Sprint(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	// An operator who looks at a file does not go by it.
	loaded, err := config.LoadFile(target)
	want := fmt.Sprintf("%s/open has mode 0777: others can write to it; chmod go-w %[1]s/open; a node refuses to go by it", dir)
	if err != nil || len(loaded.Warnings) != 1 || loaded.Warnings[0] != want {
		t.Errorf("LoadFile: got warnings %q, %v, want %q", loaded.Warnings, err, want)
	}
}
