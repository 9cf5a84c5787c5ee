// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/credential/helpertest"
)

const secretAnswer = `{"ServerURL":"${STDIN}","Username":"canary-user","Secret":"hunter2"}`

// dockerHelper installs docker-credential-test, and returns it with the source that it is for.
func dockerHelper(t testing.TB, s helpertest.Script) (helpertest.Helper, credential.Source) {
	t.Helper()
	dir := t.TempDir()
	return helpertest.Install(t, dir, "docker-credential-test", s), credential.Source{Helper: "test", HelperDirs: dir}
}

// ask asks a keychain for the first time.
func ask(t testing.TB, k credential.Keychain, image string) (string, error) {
	t.Helper()
	c, err := k.Credential(t.Context(), image, credential.Credential{})
	return shown(c), err
}

func shown(c credential.Credential) string { return c.Username + ":" + c.Password.Reveal() }

// wantUnavailable checks that err ends a pull, has the texts that are wanted, and no secret.
func wantUnavailable(t testing.TB, err error, want ...string) {
	t.Helper()
	if !errors.Is(err, credential.ErrUnavailable) {
		t.Fatalf("got %v, want %v", err, credential.ErrUnavailable)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got %v, want %q in it", err, w)
		}
	}
	if strings.Contains(err.Error(), password) {
		t.Errorf("got %v, want no secret in it", err)
	}
}

// SEC-11: get is the one argument, the host comes on the standard input, and of the environment no more than what is
// meant for it. It runs in /, wherever containerd was started.
func TestDockerHelper(t *testing.T) {
	t.Setenv("CANARY", password)
	t.Setenv("HTTPS_PROXY", "http://proxy.test")
	h, source := dockerHelper(t, helpertest.Script{Stdout: secretAnswer})
	for _, tt := range []struct{ image, want string }{{"reg.test:5000/app", "reg.test:5000"}, {"docker.io/library/nginx", "https://index.docker.io/v1/"}} {
		if got, err := ask(t, source.Keychain(), tt.image); err != nil || got != "canary-user:hunter2" {
			t.Fatalf("got %s, %v", got, err)
		}
		runs := h.Runs(t)
		run := runs[len(runs)-1]
		if run.Stdin != tt.want || !slices.Equal(run.Args, []string{"get"}) {
			t.Errorf("got %q asked with %q, want %q with get", run.Stdin, run.Args, tt.want)
		}
		if run.Dir != "/" {
			t.Errorf("got it run in %s, want /", run.Dir)
		}
		for _, pair := range run.Env {
			if name, _, _ := strings.Cut(pair, "="); !slices.Contains([]string{"PATH", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "no_proxy", "all_proxy", "PWD"}, name) {
				t.Errorf("got variable %s passed to the helper", name)
			}
		}
		if !slices.Contains(run.Env, "HTTPS_PROXY=http://proxy.test") {
			t.Errorf("got environment %q, want the proxy in it", run.Env)
		}
	}
	if got, want := source.Kind(), "helper:test"; got != want {
		t.Errorf("got kind %s, want %s", got, want)
	}
}

// C1: a helper that is missing, that cannot be run, or that others can write.
func TestHelperCannotBeRun(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, path string) error
		want string
	}{
		{"missing", func(_ *testing.T, path string) error { return os.Remove(path) }, "not found in "},
		{"a directory", func(_ *testing.T, path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) }, "is not a regular file"},
		{"not executable", func(_ *testing.T, path string) error { return os.Chmod(path, 0o600) }, "is not executable; chmod +x "},
		{"of another's", func(_ *testing.T, path string) error { return os.Chown(path, 1000, 0) }, "belongs to user 1000"},
		{"SEC-09 writable", func(_ *testing.T, path string) error { return os.Chmod(path, 0o722) }, "others can write to it; chmod go-w "},
		{"SEC-09 in a directory that is", func(_ *testing.T, path string) error { return os.Chmod(filepath.Dir(path), 0o777) }, "others can write to it; chmod go-w "},
		{"C15 no program", func(_ *testing.T, path string) error { return os.WriteFile(path, []byte("\x7fELF"), 0o700) }, "exec format error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, source := dockerHelper(t, helpertest.Script{Stdout: secretAnswer})
			if err := tt.do(t, h.Path); err != nil {
				t.Skip(err)
			}
			_, err := ask(t, source.Keychain(), "reg.test/app")
			wantUnavailable(t, err, `helper "docker-credential-test"`, tt.want)
			warnings, err := source.Check()
			if err != nil || len(warnings) != 1 && !strings.HasPrefix(tt.name, "C15") {
				t.Errorf("check: got %q, %v, want one warning", warnings, err)
			}
		})
	}
}

// C15: a helper that could not be started is started again a moment later.
func TestHelperRecovers(t *testing.T) {
	h, source := dockerHelper(t, helpertest.Script{Stdout: secretAnswer})
	moved := h.Path + ".away"
	if err := os.Rename(h.Path, moved); err != nil {
		t.Fatal(err)
	}
	k := source.Keychain()
	_, err := ask(t, k, "reg.test/app")
	wantUnavailable(t, err, "not found in")
	if err := os.Rename(moved, h.Path); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		got, err := ask(t, k, "reg.test/app")
		if err == nil && got == "canary-user:hunter2" {
			return
		}
		if time.Since(start) > 6*time.Second {
			t.Fatalf("got %s, %v after %s, want a failure remembered for 5s at most", got, err, time.Since(start))
		}
	}
}

// C2, SEC-11: a helper that hangs is killed with all its group, in time.
func TestHelperHangs(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script helpertest.Script
		ok     bool
	}{
		{"asleep", helpertest.Script{Sleep: 10 * time.Minute}, false},
		{"ignoring SIGTERM", helpertest.Script{Sleep: 10 * time.Minute, Stubborn: true}, false},
		{"with a child", helpertest.Script{Sleep: 10 * time.Minute, Child: true}, false},
		{"ended, its child holds the output", helpertest.Script{Stdout: secretAnswer, Child: true}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, source := dockerHelper(t, tt.script)
			source.HelperTimeout = time.Second
			start := time.Now()
			_, err := ask(t, source.Keychain(), "reg.test/app")
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("got an answer after %s, want it after 2s at most", took)
			}
			if tt.ok && err != nil {
				t.Error(err)
			} else if !tt.ok {
				wantUnavailable(t, err, "no answer in 1s; it was killed")
			}
			if len(h.Runs(t)) != 1 {
				t.Errorf("got %d runs, want 1", len(h.Runs(t)))
			}
			for start := time.Now(); len(h.Left(t)) > 0; time.Sleep(10 * time.Millisecond) {
				if time.Since(start) > time.Second {
					t.Fatalf("got processes %v left", h.Left(t))
				}
			}
		})
	}
}

// C2: a child that left the helper's process group lives on, and holds nothing of ours: no pull, no place among the helpers, no
// pipe.
func TestHelperLeavesADaemon(t *testing.T) {
	for name, script := range map[string]helpertest.Script{
		"ended": {Stdout: secretAnswer, Child: true, Detached: true},
		"hangs": {Child: true, Detached: true, Sleep: 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			h, source := dockerHelper(t, script)
			t.Cleanup(func() {
				for _, pid := range h.Left(t) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			})
			source.HelperTimeout = time.Second
			k := source.Keychain()
			files, goroutines := openFiles(t), runtime.NumGoroutine()
			failed := make(chan error)
			for i := range 6 { // more than run at once
				go func() {
					_, err := k.Credential(t.Context(), fmt.Sprintf("reg%d.test/app", i), credential.Credential{})
					failed <- err
				}()
			}
			for range 6 {
				if err := <-failed; script.Stdout == "" {
					wantUnavailable(t, err, "no answer in 1s; it was killed")
				} else if err != nil {
					t.Error(err)
				}
			}
			if left := h.Left(t); len(left) != 6 {
				t.Errorf("got %d processes left, want the six that left the group", len(left))
			}
			for start := time.Now(); openFiles(t) > files || runtime.NumGoroutine() > goroutines; time.Sleep(10 * time.Millisecond) {
				if time.Since(start) > 5*time.Second {
					t.Fatalf("got %d open files and %d goroutines, %d and %d before", openFiles(t), runtime.NumGoroutine(), files, goroutines)
				}
			}
		})
	}
}

// SEC-11: when everybody who waited for a helper is gone it is killed, and the next who asks has a run of its own.
func TestHelperIsCanceled(t *testing.T) {
	h, source := dockerHelper(t, helpertest.Script{Stdout: secretAnswer, Sleep: 10 * time.Minute})
	k := source.Keychain()
	ctx, cancel := contextAfter(t, func() bool { return len(h.Runs(t)) > 0 })
	defer cancel()
	if _, err := k.Credential(ctx, "reg.test/app", credential.Credential{}); !errors.Is(err, ctx.Err()) || err == nil {
		t.Errorf("got %v, want %v", err, ctx.Err())
	}
	for start := time.Now(); len(h.Left(t)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatalf("got processes %v left", h.Left(t))
		}
	}
	h.Script(t, helpertest.Script{Stdout: secretAnswer})
	if got, err := ask(t, k, "reg.test/app"); err != nil || got != "canary-user:hunter2" {
		t.Errorf("got %s, %v", got, err)
	}
}

// C3: a helper that writes without end is killed, and what it wrote is not kept.
func TestHelperFloods(t *testing.T) {
	h, source := dockerHelper(t, helpertest.Script{Flood: 1 << 30})
	before := residentPeak(t)
	start := time.Now()
	_, err := ask(t, source.Keychain(), "reg.test/app")
	wantUnavailable(t, err, "wrote more than 65536 bytes and was killed")
	if grown := residentPeak(t) - before; grown > 2<<20 {
		t.Errorf("got %d bytes more in memory, want 2 MiB at most", grown)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("got an error after %s, want it at once", took)
	}
	if left := h.Left(t); len(left) > 0 {
		t.Errorf("got processes %v left", left)
	}
}

// C4: what a helper that fails writes is no part of the error, and of its standard error no more than can be no secret.
func TestHelperFails(t *testing.T) {
	for _, tt := range []struct{ name, stdout, stderr, want string }{
		{"on both", "token hunter2", "cannot use hunter2 here", "exit status 1: cannot use *** here"},
		{"JSON on stdout", `{"Secret":"hunter2"}`, `bad "hunter2"`, `exit status 1: bad "***"`},
		{"by its name", "", "cannot log in: password=hunter2", "cannot log in: password=***"},
		{"by a name and a space", "", "wrong password hunter2", "wrong password ***"},
		{"looking like one", "", "cannot use hunter2", "cannot use ***"},
		{"in the address of a proxy", "", "proxyconnect http://user:hunter@proxy:3128: refused", "proxyconnect http://***@proxy:3128: refused"},
		{"a reason", "", "AccessDeniedException: not authorized to perform: ecr:GetAuthorizationToken\nmore", "AccessDeniedException: not authorized to perform: ecr:GetAuthorizationToken"},
		{"stdout alone", "no such hunter2", "", "exit status 1"},
		{"D10 no server", "no credentials server URL\n", "", `it says "no credentials server URL" for reg.test`},
		{"D10 no username", "no credentials username\n", "", `it says "no credentials username" for reg.test`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, source := dockerHelper(t, helpertest.Script{Stdout: tt.stdout, Stderr: tt.stderr, Exit: 1})
			_, err := ask(t, source.Keychain(), "reg.test/app")
			wantUnavailable(t, err, `helper "docker-credential-test": `, tt.want)
		})
	}
}

// C5, D10: a helper that has no credential makes an anonymous pull.
func TestHelperHasNone(t *testing.T) {
	for _, said := range []string{"credentials not found in native keychain\n", "credentials not found in native keychain", "The specified item could not be found in the keychain."} {
		_, source := dockerHelper(t, helpertest.Script{Stdout: said, Exit: 1})
		if got, err := ask(t, source.Keychain(), "reg.test/app"); err != nil || got != ":" {
			t.Errorf("%q: got %q, %v, want none", said, got, err)
		}
	}
}

// C6, C7, C17, SEC-13: answers that are no credential for the host that was asked for.
func TestHelperAnswers(t *testing.T) {
	for _, tt := range []struct{ name, stdout, want string }{
		{"nothing", "", "answer: is not a JSON object"},
		{"junk", "hunter2", "answer: is not a JSON object"},
		{"array", `["hunter2"]`, "answer: is not a JSON object"},
		{"cut", `{"Username":"u","Secret":"hunter2`, "answer: is not JSON"},
		{"more", `{"Username":"u","Secret":"hunter2"} hunter2`, "answer: has more behind"},
		{"twice", `{"Username":"u","Secret":"x","Secret":"hunter2"}`, "answer: Secret: is given twice"},
		{"twice in another case", `{"Username":"u","Secret":"x","secret":"hunter2"}`, "answer: Secret: is given twice"},
		{"a number", `{"Username":"u","Secret":12345}`, "answer: Secret: is not text"},
		{"NUL", `{"Username":"u","Secret":"hunter2\u0000"}`, "answer: Secret: has a newline or another control character"},
		{"newline", `{"Username":"u","Secret":"hunter2\n"}`, "answer: Secret: has a newline or another control character"},
		{"no secret", `{"Username":"u","Secret":""}`, "answer: Secret: is empty"},
		{"no username", `{"Secret":"hunter2"}`, "answer: Username: is empty"},
		{"a colon", `{"Username":"u:hunter2","Secret":"x"}`, "answer: Username: has a colon"},
		{"another server", `{"ServerURL":"b.test","Username":"u","Secret":"hunter2"}`, `it answered for "b.test", asked "reg.test"`},
		{"another port", `{"ServerURL":"https://reg.test:5000","Username":"u","Secret":"hunter2"}`, `it answered for "reg.test:5000", asked "reg.test"`},
		{"no server at all", `{"ServerURL":"hunter2 x","Username":"u","Secret":"hunter2"}`, `it answered for another server, asked "reg.test"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, source := dockerHelper(t, helpertest.Script{Stdout: tt.stdout})
			_, err := ask(t, source.Keychain(), "reg.test/app")
			wantUnavailable(t, err, `helper "docker-credential-test": `, tt.want)
		})
	}
	for _, tt := range []struct{ name, stdout, want string }{
		{"identity token", `{"Username":"<token>","Secret":"hunter2"}`, "<token>:hunter2"},
		{"a URL", `{"ServerURL":"https://REG.test/v2/","Username":"u","Secret":"hunter2"}`, "u:hunter2"},
		{"C17", `{"Username":"u","Secret":" a:b%c\"ö` + strings.Repeat("x", 4096) + `"}`, `u: a:b%c"ö` + strings.Repeat("x", 4096)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, source := dockerHelper(t, helpertest.Script{Stdout: tt.stdout})
			if got, err := ask(t, source.Keychain(), "reg.test/app"); err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// SEC-12: a helper is not run for what is no host.
func TestHelperIsNotAskedFor(t *testing.T) {
	h, source := dockerHelper(t, helpertest.Script{Stdout: secretAnswer})
	provider := credential.Source{Provider: credential.Provider{Program: h.Path}}
	for _, host := range []string{"", "a\nhost=b", "a\r\nb", "a\x00b", "a b", "u@a", "u:p@a"} {
		for _, s := range []credential.Source{source, provider} {
			_, err := ask(t, s.Keychain(), host+"/app")
			wantUnavailable(t, err, "which is not a host")
		}
	}
	if runs := h.Runs(t); len(runs) > 0 {
		t.Errorf("got runs %v, want none", runs)
	}
}
