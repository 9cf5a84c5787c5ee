// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package program lets a command use what the integration tests are built from: it is the [testing.TB] of a main.
package program

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// Run runs f in the manner of a test, cleans up after it, also when interrupted, and returns the exit status.
func Run(f func(tb testing.TB)) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	tb := &tb{ctx: ctx}
	tb.run(f)
	// What was registered last goes first, and may register more.
	for next, ok := tb.popCleanup(); ok; next, ok = tb.popCleanup() {
		tb.run(func(testing.TB) { next() })
	}
	if tb.Failed() {
		return 1
	}
	return 0
}

// tb implements what of [testing.TB] the packages below integration use; anything else panics.
type tb struct {
	testing.TB
	ctx context.Context

	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

// run runs f on a goroutine of its own, which Fatal ends.
func (t *tb) run(f func(testing.TB)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(t)
	}()
	<-done
}

func (t *tb) popCleanup() (func(), bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.cleanups)
	if n == 0 {
		return nil, false
	}
	f := t.cleanups[n-1]
	t.cleanups = t.cleanups[:n-1]
	return f, true
}

func (t *tb) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

func (t *tb) Fail() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = true
}

func (t *tb) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

func (t *tb) FailNow()                  { t.Fail(); runtime.Goexit() }
func (t *tb) Log(args ...any)           { fmt.Fprintln(os.Stderr, args...) }
func (t *tb) Logf(f string, a ...any)   { t.Log(fmt.Sprintf(f, a...)) }
func (t *tb) Error(args ...any)         { t.Log(args...); t.Fail() }
func (t *tb) Errorf(f string, a ...any) { t.Logf(f, a...); t.Fail() }
func (t *tb) Fatal(args ...any)         { t.Log(args...); t.FailNow() }
func (t *tb) Fatalf(f string, a ...any) { t.Logf(f, a...); t.FailNow() }
func (t *tb) Skip(args ...any)          { t.Fatal(args...) }
func (t *tb) Helper()                   {}
func (t *tb) Name() string              { return os.Args[0] }
func (t *tb) Context() context.Context  { return t.ctx }

func (t *tb) TempDir() string {
	dir, err := os.MkdirTemp("", "berth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
