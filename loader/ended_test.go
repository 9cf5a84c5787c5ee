// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-edge/berth/loader"
)

// TestEndedUnverified ends containerd, after one that did not end by itself, before all images were looked at (REL-05): the next
// start must not take them for whole.
func TestEndedUnverified(t *testing.T) {
	l, _ := newLoader(t, bundles(t), nil)
	run := func() {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		l.Run(ctx, nil, cancel)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want := func(ended bool) {
		t.Helper()
		if _, err := os.Stat(filepath.Join(l.Root, "ended")); (err == nil) != ended {
			t.Errorf("got %v, want a note that all is well: %t", err, ended)
		}
	}
	if err := l.Close(); err != nil { // before it ran
		t.Fatal(err)
	}
	want(false)
	l.Namespaces = func(context.Context) ([]string, error) { return nil, errors.New("not today") }
	run()
	want(false)
	l.Namespaces = func(context.Context) ([]string, error) { return nil, nil }
	run()
	want(true)
	l = loader.New(l.Options, l.Node)
	run()
	want(true)
}
