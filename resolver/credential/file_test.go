// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"github.com/berth-edge/berth/resolver/credential"
)

// logged returns a context, and what is logged by it.
func logged(t testing.TB) (context.Context, *bytes.Buffer) {
	var b bytes.Buffer
	l := logrus.New()
	l.Out, l.Level = &b, logrus.TraceLevel
	return log.WithLogger(t.Context(), logrus.NewEntry(l)), &b
}

// both are the two kinds of file, and how a password is written to each.
var both = []struct {
	key    string
	source func(path string) credential.Source
	text   func(password string) string
}{
	{"password_file", func(path string) credential.Source { return credential.Source{Username: "u", PasswordFile: path} }, func(p string) string { return p + "\n" }},
	{"docker_config", func(path string) credential.Source { return credential.Source{DockerConfig: path} }, func(p string) string {
		return fmt.Sprintf(`{"auths":{"reg.test":{"username":"u","password":%q}}}`, p)
	}},
}

// C14: a file that is replaced is read again, and as long as it cannot be used what it held before is; each bad state is
// warned of once.
func TestFileChanges(t *testing.T) {
	for _, kind := range both {
		t.Run(kind.key, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			write := func(name, text string) error { return os.WriteFile(name, []byte(text), 0o600) }
			replace := func(p string) error {
				if err := write(path+".new", kind.text(p)); err != nil {
					return err
				}
				return os.Rename(path+".new", path)
			}
			k := kind.source(path).Keychain()
			ctx, output := logged(t)
			_, err := k.Credential(ctx, "reg.test/app", credential.Credential{})
			wantUnavailable(t, err, kind.key, path+": no such file")
			for _, step := range []struct {
				name string
				do   func() error
				want string
				warn string // of one line; "" is none
			}{
				{"written", func() error { return replace("one") }, "u:one", ""},
				{"replaced", func() error { return replace("two") }, "u:two", ""},
				{"written in place, as long as before", func() error { return write(path, kind.text("san")) }, "u:san", ""},
				{"truncated", func() error { return os.Truncate(path, 0) }, "u:san", path},
				{"whole again", func() error { return write(path, kind.text("three")) }, "u:three", ""},
				{"deleted", func() error { return os.Remove(path) }, "u:three", "no such file"},
				{"back", func() error { return replace("four") }, "u:four", ""},
				{"SEC-09 open to writers", func() error { return os.Chmod(path, 0o602) }, "u:four", "others can write to it; chmod go-w"},
				{"closed", func() error { return os.Chmod(path, 0o600) }, "u:four", ""},
				{"SEC-09 open to readers", func() error { return os.Chmod(path, 0o644) }, "u:four", "others can read the secret in it; chmod 600"},
				{"deleted again", func() error { return os.Remove(path) }, "u:four", "no such file"},
				{"a link to another", func() error {
					if err := write(path+".other", kind.text("five")); err != nil {
						return err
					}
					return os.Symlink(path+".other", path)
				}, "u:five", ""},
			} {
				if err := step.do(); err != nil {
					t.Fatal(err)
				}
				output.Reset()
				for range 3 {
					if c, err := k.Credential(ctx, "reg.test/app", credential.Credential{}); err != nil || shown(c) != step.want {
						t.Errorf("%s: got %s, %v, want %s", step.name, shown(c), err, step.want)
					}
				}
				got := output.String()
				if lines := strings.Count(got, "\n"); (step.warn == "") != (lines == 0) || lines > 1 || !strings.Contains(got, step.warn) {
					t.Errorf("%s: got log %q, want one line with %q", step.name, got, step.warn)
				}
			}
		})
	}
}

// H4: a file of which kubelet switches the directory is whole at every moment: the first read does not fail, and warns of
// nothing, for what went between looking at a link and at what it leads to. Kubelet switches once a minute: here one
// goes on while the file is read, and no read meets more than one.
func TestFirstReadWhileALinkIsSwitched(t *testing.T) {
	for _, kind := range both {
		t.Run(kind.key, func(t *testing.T) {
			dir := t.TempDir()
			version := func(i int) string { return filepath.Join(dir, fmt.Sprint("..", i)) }
			switchTo := func(i int) error {
				if err := os.Mkdir(version(i), 0o700); err != nil {
					return err
				}
				if err := os.WriteFile(version(i)+"/secret", []byte(kind.text("hunter2")), 0o600); err != nil {
					return err
				}
				if err := os.Symlink(filepath.Base(version(i)), dir+"/..tmp"); err != nil {
					return err
				}
				if err := os.Rename(dir+"/..tmp", dir+"/..data"); err != nil {
					return err
				}
				return os.RemoveAll(version(i - 1))
			}
			if err := switchTo(1); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("..data/secret", dir+"/secret"); err != nil {
				t.Fatal(err)
			}
			ctx, output := logged(t)
			begun := make(chan struct{})
			done := make(chan error)
			go func() {
				var err error
				for i := 2; ; i++ {
					if _, more := <-begun; !more {
						break
					}
					if err == nil {
						err = switchTo(i)
					}
				}
				done <- err
			}()
			for range 3000 {
				select {
				case begun <- struct{}{}:
				default: // the last switch goes on
				}
				if c, err := kind.source(dir+"/secret").Keychain().Credential(ctx, "reg.test/app", credential.Credential{}); err != nil || shown(c) != "u:hunter2" {
					t.Errorf("got %s, %v, want u:hunter2", shown(c), err)
					break
				}
			}
			close(begun)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if output.Len() > 0 {
				t.Errorf("got log %s, want none", output)
			}
		})
	}
}

// SEC-09: a file that others can write is not used, one that they can read is warned of, or refused under strict
// permissions.
func TestFilePermissions(t *testing.T) {
	for _, kind := range both {
		for _, tt := range []struct {
			name   string
			mode   os.FileMode
			dir    os.FileMode
			strict bool
			err    string
			warn   string
		}{
			{"good", 0o600, 0o700, true, "", ""},
			{"writable", 0o660, 0o700, false, "has mode 0660: others can write to it; chmod go-w ", "others can write"},
			{"in a directory that is", 0o600, 0o777, false, "has mode 0777: others can write to it; chmod go-w ", "others can write"},
			{"readable", 0o640, 0o700, false, "", "has mode 0640, want 0600"},
			{"readable, strictly", 0o640, 0o700, true, "has mode 0640, want 0600: others can read the secret in it; chmod 600 ", "others can read"},
		} {
			t.Run(kind.key+" "+tt.name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "dir")
				path := filepath.Join(dir, "secret")
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(kind.text("hunter2")), 0o600); err != nil {
					t.Fatal(err)
				}
				for path, mode := range map[string]os.FileMode{path: tt.mode, dir: tt.dir} {
					if err := os.Chmod(path, mode); err != nil {
						t.Fatal(err)
					}
				}
				source := kind.source(path)
				source.StrictPermissions = tt.strict
				got, err := ask(t, source.Keychain(), "reg.test/app")
				if tt.err != "" {
					wantUnavailable(t, err, kind.key, tt.err)
				} else if err != nil || got != "u:hunter2" {
					t.Errorf("got %s, %v", got, err)
				}
				warnings, err := source.Check()
				if err != nil || (len(warnings) == 1) != (tt.warn != "") || !strings.Contains(strings.Join(warnings, ""), tt.warn) {
					t.Errorf("check: got %q, %v, want %q", warnings, err, tt.warn)
				}
			})
		}
	}
}

// What can never work is an error of the configuration, and begins with its key.
func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		source credential.Source
		want   string
	}{
		{"none", credential.Source{}, ""},
		{"password", credential.Source{Username: "u", Password: password}, ""},
		{"D3 a helper's name", credential.Source{Helper: "../x"}, "credential_helper: is not the name of a helper"},
		{"a version", credential.Source{Provider: credential.Provider{Program: "x", APIVersion: "v1"}}, `credential_provider: api_version: "v1" is not known`},
		{"a pattern", credential.Source{Provider: credential.Provider{Program: "x", MatchImages: credential.List("[.io")}}, `credential_provider: match_images: "[.io": `},
	} {
		warnings, err := tt.source.Check()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) || len(warnings) > 0 {
			t.Errorf("%s: got %q, %v, want %q", tt.name, warnings, err, tt.want)
		}
	}
	same := func() credential.Source {
		return credential.Source{Provider: credential.Provider{Program: "x", Args: credential.List("a", "b"), Env: credential.Secret(credential.List("A=b"))}}
	}
	if a, b := same(), same(); a != b {
		t.Error("got two sources of the same text that differ")
	}
}
