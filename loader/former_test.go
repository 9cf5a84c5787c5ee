// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// TestFormer has starts find the file of former bundles as one before, a power cut or another version left it. A start that finds
// nothing else writes nothing.
func TestFormer(t *testing.T) {
	for name, tt := range map[string]struct {
		text, want string
		unread     bool
	}{
		"first start":     {"", `["/a","/b"]`, false},
		"another folder":  {`["/b","/c"]`, `["/a","/b","/c"]`, false},
		"the same":        {`["/a","/b"]`, `["/a","/b"]`, false},
		"empty":           {" ", `["/a","/b"]`, true},
		"cut off":         {`["/c","/`, `["/a","/b"]`, true},
		"another version": {`{"version":2}`, `["/a","/b"]`, true},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "root", "bundles.json")
			if tt.text != "" {
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var said bytes.Buffer
			logger := logrus.New()
			logger.SetOutput(&said)
			ctx := log.WithLogger(t.Context(), logrus.NewEntry(logger))
			start := func(want string) os.FileInfo {
				t.Helper()
				f := former{file: file}
				f.add(ctx, []string{"/b", "/a"})
				got, err := os.ReadFile(file)
				if err != nil || string(got) != want {
					t.Errorf("got %s %v, want %s", got, err, want)
				}
				f.set(ctx, []string{"/b", "/a"})
				if got := slices.Sorted(maps.Keys(f.known)); !slices.Equal(got, []string{"/a", "/b"}) {
					t.Errorf("got %q when all is loaded", got)
				}
				info, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				return info
			}
			first := start(tt.want)
			unread := strings.Contains(said.String(), "level=warning") && strings.Contains(said.String(), "file="+file)
			if unread != tt.unread {
				t.Errorf("got log %q, want a warning of the file: %t", said.String(), tt.unread)
			}
			if again := start(`["/a","/b"]`); !os.SameFile(first, again) || !first.ModTime().Equal(again.ModTime()) {
				t.Error("a start that found nothing new wrote the file")
			}
		})
	}
}
