// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"berth": main}) }

// The sessions of testdata. Those that read containerd's own configuration run our containerd, built here.
func TestSessions(t *testing.T) {
	bin := t.TempDir()
	if !testing.Short() {
		build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "containerd"), "../containerd")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build containerd: %v\n%s", err, out)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:  "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exit": wantExit, "serve": serve, "schema": schema},
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", env.Getenv("PATH")+string(os.PathListSeparator)+bin)
			return nil
		},
	})
}

// wantExit runs berth: exit STATUS ARG….
func wantExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: exit STATUS [ARG…]")
	}
	err := ts.Exec("berth", args[1:]...)
	got := "0"
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = strconv.Itoa(exit.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("berth %q: got exit status %s (%v), want %s", args[1:], got, err, args[0])
	}
}

// Without a containerd the error says where one is looked for.
func TestNoContainerd(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte("version = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"berth", "config", "check", "--config", path}, &stdout, &stderr)
	if want := "put it beside berth or on the PATH, or name a file of registries and rules with --config\n"; code != 1 || !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("got exit status %d and %q, want 1 and %q", code, &stderr, want)
	}
}

// A containerd that cannot read its configuration is a fault, and not wrong usage.
func TestContainerdFails(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	path := filepath.Join(dir, "config.toml")
	err := errors.Join(os.WriteFile(path, []byte("version = 3\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "containerd"), []byte("#!/bin/sh\necho broken >&2\nexit 3\n"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"berth", "explain", "--config", path, "nginx"}, &stdout, &stderr)
	if want := "config dump`: exit status 3: broken\n"; code != 1 || !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("got exit status %d and %q, want 1 and %q", code, &stderr, want)
	}
}

// vector is a case of resolver/testdata/rewrite.json.
type vector struct {
	Name, Config, Ref, Error string
	Pull                     []string
}

// Every vector through `berth explain`, which prints the route that a pull goes along: its keys are a contract too.
func TestExplainVectors(t *testing.T) {
	text, err := os.ReadFile("../../resolver/testdata/rewrite.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) < 21 {
		t.Fatalf("got %d vectors, %v, want 21 or more", len(vectors), err)
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) { explainVector(t, v) })
	}
}

func explainVector(t *testing.T, v vector) {
	path := filepath.Join(t.TempDir(), "berth.toml")
	if err := os.WriteFile(path, []byte(v.Config), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"berth", "explain", "--config", path, "--output", "json", v.Ref}, &stdout, &stderr)
	if want := map[bool]int{false: 0, true: 1}[v.Error != ""]; code != want || stderr.Len() > 0 {
		t.Errorf("got exit status %d and stderr %q, want %d and none", code, &stderr, want)
	}

	loaded, err := config.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := resolver.NewRoutes(loaded.Config)
	if err != nil {
		t.Fatal(err)
	}
	route, err := json.Marshal([]resolver.Route{routes.Route(t.Context(), v.Ref)})
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, stdout.Bytes()); err != nil || compact.String() != string(route) {
		t.Errorf("got %s, %v, want the route %s", &compact, err, route)
	}

	var printed []map[string]any
	if err := json.Unmarshal(stdout.Bytes(), &printed); err != nil || len(printed) != 1 {
		t.Fatalf("got %s, %v, want a list of one", &stdout, err)
	}
	wantKeys(t, printed[0], "error", "named", "ref", "rule", "targets")
	if got, _ := printed[0]["error"].(string); !strings.Contains(got, v.Error) || (v.Error == "") != (got == "") {
		t.Errorf("got error %q, want %q", got, v.Error)
	}
	var pulls []string
	for _, target := range printed[0]["targets"].([]any) {
		target := target.(map[string]any)
		wantKeys(t, target, "credential", "kind", "pull", "registry", "tls")
		pulls = append(pulls, target["pull"].(string))
	}
	if !slices.Equal(pulls, v.Pull) {
		t.Errorf("got %q, want %q", pulls, v.Pull)
	}
}

func wantKeys(t *testing.T, object map[string]any, want ...string) {
	t.Helper()
	if got := slices.Sorted(maps.Keys(object)); !slices.Equal(got, want) {
		t.Errorf("got keys %q, want %q", got, want)
	}
}
