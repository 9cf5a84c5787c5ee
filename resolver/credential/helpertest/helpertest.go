// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package helpertest makes credential helpers that a test scripts: real executables that write down every run.
//
//	dir := t.TempDir()
//	helper := helpertest.Install(t, dir, "docker-credential-test", helpertest.Script{Stdout: `{"Username":"u","Secret":"s"}`})
//	…
//	if got := len(helper.Runs(t)); got != 1 { … }
package helpertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Script is what a helper does. The zero value reads its input, writes nothing, and ends well.
type Script struct {
	// Stdout and Stderr are written. In Stdout ${STDIN} is what was read, ${HOST} and ${IMAGE} the host and the image of a
	// credential provider's request.
	Stdout, Stderr string
	// Flood is how many bytes are written to the standard output after that.
	Flood int64
	// Exit is the code that it ends with.
	Exit int
	// Sleep is how long it waits before it writes.
	Sleep time.Duration
	// Stubborn lets it ignore SIGTERM.
	Stubborn bool
	// Child lets it start one that sleeps for ten minutes, and holds the output open.
	Child bool
	// Detached lets that child leave the helper's session and process group.
	Detached bool
}

// Run is one run of a helper.
type Run struct {
	Stdin string
	Args  []string
	Env   []string
	// Dir is where it ran.
	Dir string
	// PIDs are its own and that of its child.
	PIDs []int
}

// Helper is an executable.
type Helper struct{ Path string }

// Install makes a helper of the given name.
func Install(t testing.TB, dir, name string, s Script) Helper {
	t.Helper()
	content, err := program()
	if err != nil {
		t.Fatal(err)
	}
	h := Helper{filepath.Join(dir, name)}
	h.Script(t, s)
	// A process that is forked meanwhile would hold the file open for writing, and then it cannot be run.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(h.Path, content, 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	return h
}

// Script changes what the helper does from now on.
func (h Helper) Script(t testing.TB, s Script) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.Path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(h.Path+".new", h.Path+".script"); err != nil {
		t.Fatal(err)
	}
}

// Runs returns what the helper was asked so far.
func (h Helper) Runs(t testing.TB) []Run {
	t.Helper()
	text, err := os.ReadFile(h.Path + ".runs")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var runs []Run
	for line := range strings.Lines(string(text)) {
		var r Run
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
	}
	return runs
}

// Left returns those processes of the helper that still live.
func (h Helper) Left(t testing.TB) []int {
	t.Helper()
	var left []int
	for _, r := range h.Runs(t) {
		for _, pid := range r.PIDs {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !strings.Contains(string(status), ") Z ") {
				left = append(left, pid)
			}
		}
	}
	return left
}

// program is the content of the executable, built once.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "helpertest")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "program")
	out, err := exec.Command("go", "build", "-o", path, "github.com/berth-edge/berth/resolver/credential/helpertest/program").CombinedOutput() //nolint:noctx // go test ends it
	if err != nil {
		return nil, fmt.Errorf("build helper: %w\n%s", err, out)
	}
	return os.ReadFile(path)
})
