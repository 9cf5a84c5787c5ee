// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// rewritten is where r has quay.io/a pulled from, "" for nowhere.
func rewritten(ctx context.Context, r *Resolver) string {
	routes, err := r.Routes(ctx)
	if err != nil {
		return ""
	}
	return routes.Route(ctx, "quay.io/a").Targets[0].Pull.String()
}

func to(target string) string {
	return fmt.Sprintf("[[rules]]\nfrom = \"quay.io\"\nto = [%q]\n", target)
}

// replace puts a file into the place of another at once, as editors and tools do.
func replace(t *testing.T, path, text string) {
	t.Helper()
	writeFile(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// H4: however a file is changed, the change is in force for the next pull, with no watcher at all.
func TestChangeIsInForceForTheNextPull(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string)
	}{
		{"written in place", func(t *testing.T, dir string) { writeFile(t, dir+"/a.toml", to("new.io")) }},
		{"renamed over", func(t *testing.T, dir string) { replace(t, dir+"/a.toml", to("new.io")) }},
		{"deleted and made again", func(t *testing.T, dir string) {
			os.Remove(dir + "/a.toml")
			time.Sleep(20 * time.Millisecond)
			writeFile(t, dir+"/a.toml", to("new.io"))
		}},
		{"moved away and another added", func(t *testing.T, dir string) {
			os.Remove(dir + "/a.toml")
			writeFile(t, dir+"/b.toml", to("new.io"))
		}},
		{"a link is switched", func(t *testing.T, dir string) {
			os.Symlink("elsewhere/new.toml", dir+"/link")
			os.Rename(dir+"/link", dir+"/a.toml")
		}},
		{"its directory is switched", func(t *testing.T, dir string) {
			os.Symlink("elsewhere", dir+"/other")
			os.Remove(dir + "/a.toml")
			os.Symlink("data/new.toml", dir+"/a.toml")
			os.Symlink("elsewhere", dir+"/data")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(dir+"/elsewhere", 0o755); err != nil {
				t.Fatal(err)
			}
			writeFile(t, dir+"/elsewhere/new.toml", to("new.io"))
			writeFile(t, dir+"/a.toml", to("old.io"))
			r, ctx, logged := newResolver(t, dir+"/*.toml")
			if got := rewritten(ctx, r); got != "old.io/a:latest" {
				t.Fatalf("got %s before the change", got)
			}
			tt.change(t, dir)
			if got := rewritten(ctx, r); got != "new.io/a:latest" {
				t.Errorf("got %s, want the new rule; log:\n%s", got, logged)
			}
			if s := r.status(t.Context()); s.Generation != 2 || len(s.Refused) > 0 {
				t.Errorf("got status %v, want generation 2", s)
			}
		})
	}
}

// H2, A1: a change that cannot be used leaves the last good rules in force, and says so once; it is mended without a
// restart. Rules that are gone for good are one of them.
func TestBadChangeKeepsTheLastGood(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"syntax", "[[rules]\n", ":1: TOML syntax: "},
		{"mistake", "[[rules]]\nfrom = \"quay.io\"\n", ":1: rules[0].to: is empty"},
		{"unknown key", to("r.io") + "x = 1\n", ":4: rules[0].x: unknown key"},
		{"certificate that is gone", "[[registries]]\ndomain = \"r.io\"\ncertificates = [\"/absent/ca.pem\"]\n", ":3: registries[0].certificates[0]: /absent/ca.pem: cannot be read"},
		{"empty", "", "is empty, and was not; write registries and rules into it, or remove it"},
		{"nothing but a comment", "# old.io is gone\n", "no registry and no rule is left"},
		{"deleted", "-", "no registry and no rule is left"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "a.toml")
			writeFile(t, file, to("old.io"))
			r, ctx, logged := newResolver(t, dir+"/*.toml")
			since := r.State().Since
			logged.Reset()
			if tt.text == "-" {
				os.Remove(file)
			} else {
				writeFile(t, file, tt.text)
			}
			for range 3 {
				if got := rewritten(ctx, r); got != "old.io/a:latest" {
					t.Fatalf("got %s, want the rule of before", got)
				}
				os.Chtimes(file, time.Time{}, time.Now()) // touched, and as bad as before
			}
			if got := strings.Count(logged.String(), "refused: what was before stays in force"); got != 1 || strings.Count(logged.String(), "\n") != 1 {
				t.Errorf("got log\n%s\nwant one line", logged)
			}
			s := r.status(t.Context())
			if s.Generation != 1 || !s.Since.AsTime().Equal(since) || len(s.Refused) != 1 || !strings.Contains(s.Refused[0], tt.want) {
				t.Errorf("got status %v, want generation 1 since %s and %q refused", s, since, tt.want)
			}
			m := metrics(t, r)
			if m["berth_config_last_reload_successful"] != 0 || m["berth_config_generation"] != 1 || m["berth_config_reloads_total refused"] != 1 || m["berth_configured"] != 1 {
				t.Errorf("got metrics %v", m)
			}
			writeFile(t, file, to("new.io"))
			if got := rewritten(ctx, r); got != "new.io/a:latest" {
				t.Errorf("mended: got %s", got)
			}
			m = metrics(t, r)
			if m["berth_config_last_reload_successful"] != 1 || m["berth_config_generation"] != 2 || m["berth_config_reloads_total applied"] != 1 || len(r.status(t.Context()).Refused) > 0 {
				t.Errorf("mended: got metrics %v, status %v", m, r.status(t.Context()))
			}
		})
	}
}

// H3: one of several files that is emptied takes none of its rules with it, as one that is removed does.
func TestOneFileIsEmptied(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir+"/a.toml", to("old.io"))
	writeFile(t, dir+"/b.toml", "[[rules]]\nfrom = \"ghcr.io\"\ndeny = true\n")
	r, ctx, _ := newResolver(t, dir+"/*.toml")
	rules := func() int {
		t.Helper()
		routes, err := r.Routes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return len(routes.Config().Rules)
	}
	writeFile(t, dir+"/b.toml", "")
	if got, want := rules(), []string{dir + "/b.toml: is empty, and was not; write registries and rules into it, or remove it"}; got != 2 || !slices.Equal(r.status(t.Context()).Refused, want) {
		t.Errorf("emptied: got %d rules and %q refused, want both rules and %q", got, r.status(t.Context()).Refused, want)
	}
	if err := os.Remove(dir + "/b.toml"); err != nil {
		t.Fatal(err)
	}
	if got := rules(); got != 1 || len(r.status(t.Context()).Refused) > 0 {
		t.Errorf("removed: got %d rules and %q refused, want one rule", got, r.status(t.Context()).Refused)
	}
}

// What is put back as it was is no new generation.
func TestPutBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.toml")
	writeFile(t, file, to("old.io"))
	r, ctx, logged := newResolver(t, file)
	writeFile(t, file, "[[rules]\n")
	rewritten(ctx, r)
	writeFile(t, file, to("old.io"))
	rewritten(ctx, r)
	if s := r.status(t.Context()); s.Generation != 1 || len(s.Refused) > 0 || !strings.Contains(logged.String(), "again as it is in force") {
		t.Errorf("got status %v, log\n%s", s, logged)
	}
}

// H3: a file that is written a byte at a time is never gone by until it is whole, though what is there of it may be rules.
func TestHalfWrittenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.toml")
	writeFile(t, file, to("old.io"))
	r, ctx, logged := newResolver(t, file)
	go r.Watch(ctx)
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	text := "[[rules]]\nfrom = \"*\"\nto = [\"any.io\"]\n" + to("new.io")
	var written int
	var writer sync.WaitGroup
	writer.Go(func() {
		for written < len(text) {
			f.WriteString(text[written : written+1])
			written++
			time.Sleep(restless * 3 / 2 / time.Duration(len(text))) // longer in all than a file that changes all the time is waited for
		}
	})
	pulled := make(chan struct{})
	go func() {
		defer close(pulled)
		for r.State().Generation == 1 {
			if _, err := r.Routes(ctx); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	writer.Wait()
	time.Sleep(2 * quiet) // nothing happens, but it is still open
	if s := r.State(); s.Generation != 1 {
		t.Errorf("got rules %v in force, want those of before", s.Rules)
	}
	f.Close()
	<-pulled
	if got := rewritten(ctx, r); got != "new.io/a:latest" {
		t.Errorf("got %s, want the new rule", got)
	}
	if strings.Contains(logged.String(), "refused") {
		t.Errorf("got log\n%s\nwant nothing refused", logged)
	}
}

// H3: nor is one that is written in pieces, and closed after each. A busy machine may be late with a piece, and has several tries.
func TestFileInPieces(t *testing.T) {
	var err error
	for range 5 {
		if err = takeInPieces(t); err == nil {
			return
		}
	}
	t.Error(err)
}

func takeInPieces(t *testing.T) error {
	file := filepath.Join(t.TempDir(), "a.toml")
	writeFile(t, file, to("old.io"))
	r, ctx, logged := newResolver(t, file)
	go r.Watch(ctx)
	writeFile(t, file, "")
	for _, piece := range []string{"[[rules]]\nfrom = \"*\"\n", "to = [\"any.io\"]\n", "# and the rest\n", to("new.io")} {
		time.Sleep(quiet / 4)
		if s := r.State(); s.Generation != 1 {
			return fmt.Errorf("got rules %v in force, want those of before", s.Rules)
		}
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(piece)
		f.Close()
	}
	for end := time.Now().Add(10 * time.Second); r.State().Generation == 1 && time.Now().Before(end); {
		time.Sleep(quiet / 20)
	}
	if s := r.State(); s.Generation != 2 || rewritten(ctx, r) != "new.io/a:latest" {
		return fmt.Errorf("got generation %d and %s, want the new rules in force at once", s.Generation, rewritten(ctx, r))
	}
	if strings.Contains(logged.String(), "refused") {
		return fmt.Errorf("got log\n%s\nwant nothing refused", logged)
	}
	return nil
}

// Files that change all the time come into force all the same, and pulls do not wait for them.
func TestRestlessFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.toml")
	writeFile(t, file, to("old.io"))
	r, ctx, _ := newResolver(t, file)
	ctx, stop := context.WithCancel(ctx)
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			os.WriteFile(file, []byte(to(fmt.Sprintf("new%d.io", i))), 0o600)
			time.Sleep(20 * time.Millisecond)
		}
	})
	defer writer.Wait()
	defer stop()
	var waited []time.Duration
	for begin := time.Now(); rewritten(ctx, r) == "old.io/a:latest"; {
		start := time.Now()
		rewritten(ctx, r)
		waited = append(waited, time.Since(start))
		if time.Since(begin) > 5*restless {
			t.Fatal("the change never came into force")
		}
		time.Sleep(10 * time.Millisecond)
	}
	slices.Sort(waited)
	if median := waited[len(waited)/2]; median > patience/2 {
		t.Errorf("got a pull waiting for %s, want it to go by what is in force", median)
	}
}

// H1, P6: pulls while the configuration changes go by one of the two, and never by neither or by a mix.
func TestReloadUnderLoad(t *testing.T) {
	dir := t.TempDir()
	configuration := func(n int) string {
		return fmt.Sprintf("[[rules]]\nfrom = \"quay.io\"\nto = [\"r%d.io\"]\n[[rules]]\nfrom = \"gcr.io\"\nto = [\"r%[1]d.io\"]\n", n)
	}
	writeFile(t, dir+"/a.toml", configuration(0))
	r, ctx, _ := newResolver(t, dir+"/*.toml")
	ctx, stop := context.WithCancel(ctx)
	var watcher, pulls sync.WaitGroup
	watcher.Go(func() { r.Watch(ctx) })
	done := make(chan struct{})
	for range 50 {
		pulls.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				routes, err := r.Routes(ctx)
				if err != nil {
					t.Errorf("got %v, want routes", err)
					return
				}
				one, other := routes.Route(ctx, "quay.io/a").Targets[0].Pull.String(), routes.Route(ctx, "gcr.io/a").Targets[0].Pull.String()
				if one != other || one != "r0.io/a:latest" && one != "r1.io/a:latest" {
					t.Errorf("got %s and %s, want both from one configuration", one, other)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	for i := range 40 {
		replace(t, dir+"/a.toml", configuration((i+1)%2))
		time.Sleep(50 * time.Millisecond)
		if i%5 == 4 {
			time.Sleep(2 * quiet)
		}
	}
	close(done)
	pulls.Wait()
	if got := r.State().Generation; got < 4 {
		t.Errorf("got generation %d, want more than 3 of them: nothing was reloaded", got)
	}
	stop()
	watcher.Wait()
}

// H10: what others can write from now on is refused, and what was in force stays.
func TestPermissionsBecomeUnsafe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.toml")
	writeFile(t, file, to("old.io"))
	r, ctx, _ := newResolver(t, file)
	if err := os.WriteFile(file, []byte(to("evil.io")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := rewritten(ctx, r); got != "old.io/a:latest" {
		t.Errorf("got %s, want the rule of before", got)
	}
	if s := r.status(t.Context()); len(s.Refused) != 1 || !strings.Contains(s.Refused[0], "mode 0666: others can write to it") {
		t.Errorf("got status %v, want the mode refused", s)
	}
}

// T8, SEC-24: a client's certificate and its key are replaced one after the other: the old pair is shown until the new one
// is whole.
func TestKeyPairReplacedInTwoSteps(t *testing.T) {
	dir := t.TempDir()
	authority := registrytest.NewAuthority(t)
	_, cert, key := authority.Issue(t, "node")
	_, newCert, newKey := authority.Issue(t, "node")
	writeFile(t, dir+"/cert.pem", cert)
	writeFile(t, dir+"/key.pem", key)
	writeFile(t, dir+"/a.toml", fmt.Sprintf("[[registries]]\ndomain = \"r.io\"\nclient_certificate = \"%s/cert.pem\"\nclient_key = \"%[1]s/key.pem\"\n", dir))
	r, ctx, _ := newResolver(t, dir+"/a.toml")
	shown := func(want, wantKey string) {
		t.Helper()
		routes, err := r.Routes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if o := routes.Config().Registries[0].Endpoint; o.ClientCertificate != want || o.ClientKey != wantKey {
			t.Error("got another pair than wanted")
		}
	}
	shown(cert, key)
	replace(t, dir+"/cert.pem", newCert)
	shown(cert, key)
	if s := r.status(t.Context()); len(s.Refused) != 1 || !strings.Contains(s.Refused[0], "client key does not match certificate") {
		t.Errorf("got status %v, want the pair refused", s)
	}
	replace(t, dir+"/key.pem", newKey)
	shown(newCert, newKey)
}
