// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package binaries builds the programs that the integration tests run, from this module's own graph.
//
// A program is built when it is first asked for, once per test process, and Go's build cache does the rest: only the
// link step is paid again. A test binary that uses the package ends through [Main], which removes what was built.
//
// With BERTH_BIN set to a directory, programs found there are taken as they are and the others are built into it.
// That saves the link steps where several test binaries run one after another.
package binaries

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The programs that can be asked for.
const (
	Containerd = "containerd"              // ours
	Stock      = "stock"                   // containerd's own, from the same module graph
	Ctr        = "ctr"                     // containerd's client
	Shim       = "containerd-shim-runc-v2" // what containerd starts for each container
	Runc       = "runc"                    // what the shim starts
	Berth      = "berth"                   // the operator's command
	Registry   = "registry"                // the test registry as a program
	Probe      = "probe"                   // a static program to put into images
)

const module = "github.com/berth-edge/berth"

var packages = map[string]string{
	Containerd: module + "/cmd/containerd",
	Stock:      "github.com/containerd/containerd/v2/cmd/containerd",
	Ctr:        "github.com/containerd/containerd/v2/cmd/ctr",
	Shim:       "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
	Runc:       "github.com/opencontainers/runc",
	Berth:      module + "/cmd/berth",
	Registry:   module + "/integration/registry/cmd",
	Probe:      module + "/integration/image/probe",
}

// flags are the same for every program, so that they share compiled packages with each other and with the tests.
var flags = []string{"build", "-buildvcs=false"}

// built is what this process has: one directory, and for each name the one attempt to build it. Builds run one after
// another: a single go build already keeps every core busy.
var built struct {
	sync.Mutex
	dir  string
	temp bool
	errs map[string]error
}

// Path returns the path of the named program, which is built if it was not yet. It fails tb if the build does.
func Path(tb testing.TB, name string) string {
	tb.Helper()
	path, err := build(name)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Dir returns a directory for PATH that holds the named programs, and those built before.
func Dir(tb testing.TB, names ...string) string {
	tb.Helper()
	for _, name := range names {
		Path(tb, name)
	}
	built.Lock()
	defer built.Unlock()
	if err := makeDir(); err != nil {
		tb.Fatal(err)
	}
	return built.dir
}

// Main runs the tests of m, removes what was built for them and exits.
func Main(m *testing.M) {
	code := m.Run()
	Remove()
	os.Exit(code)
}

// Remove removes what was built, unless BERTH_BIN named the directory.
func Remove() {
	built.Lock()
	defer built.Unlock()
	if built.temp {
		_ = os.RemoveAll(built.dir)
	}
	built.dir, built.temp, built.errs = "", false, nil
}

func build(name string) (string, error) {
	built.Lock()
	defer built.Unlock()
	if err := makeDir(); err != nil {
		return "", err
	}
	path := filepath.Join(built.dir, name)
	if err, done := built.errs[name]; done {
		return path, err
	}
	var err error
	if _, statErr := os.Stat(path); statErr != nil {
		err = Build(context.Background(), name, path)
	}
	built.errs[name] = err
	return path, err
}

func makeDir() (err error) {
	if built.dir != "" {
		return nil
	}
	built.errs = map[string]error{}
	if dir := os.Getenv("BERTH_BIN"); dir != "" {
		if built.dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		return os.MkdirAll(built.dir, 0o755)
	}
	built.temp = true
	built.dir, err = os.MkdirTemp("", "berth-bin")
	return err
}

// Root returns the directory of this module.
func Root(tb testing.TB) string {
	tb.Helper()
	root, err := exec.CommandContext(tb.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		tb.Fatalf("find %s: %v", module, err)
	}
	return strings.TrimSpace(string(root))
}

// Edited builds the named program with one change, which the sources on disk do not get: in the given file of this
// module, named from the module's root, the text old, which must be there once, is replaced. It shows what a test says
// of a program without the thing that is tested. The program goes with tb.
func Edited(tb testing.TB, name, file, old, replacement string) string {
	tb.Helper()
	file = filepath.Join(Root(tb), filepath.FromSlash(file))
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	if n := strings.Count(string(text), old); n != 1 {
		tb.Fatalf("edit %s: got %q %d times, want it once", file, old, n)
	}
	dir := tb.TempDir()
	edited, overlay := filepath.Join(dir, "edited.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {file: edited}})
	if err != nil {
		tb.Fatal(err)
	}
	for path, data := range map[string][]byte{edited: []byte(strings.Replace(string(text), old, replacement, 1)), overlay: replace} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	path := filepath.Join(dir, name)
	if err := Build(tb.Context(), name, path, "-overlay", overlay); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Build builds the named program into the file path, with further flags of go build if any.
func Build(ctx context.Context, name, path string, more ...string) error {
	pkg, ok := packages[name]
	if !ok {
		return fmt.Errorf("build %s: no such program", name)
	}
	args := slices.Concat(flags, more, []string{"-o", path, pkg})
	cmd := exec.CommandContext(ctx, "go", args...)
	if name == Probe {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return nil
}
