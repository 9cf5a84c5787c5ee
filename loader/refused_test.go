// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/loader"
)

// TestBrokenOnce pulls an image of a bundle with a wrong layer, or without one, once and not again every few minutes: it would be
// written in vain each time, and flash wears out. A bundle that replaces the broken one is tried.
func TestBrokenOnce(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(*image.Entry) bool // false: leave it out
		pulls int
		says  string
	}{
		{"wrong layer", func(e *image.Entry) bool { e.Data = bytes.Repeat([]byte("x"), len(e.Data)); return true }, 1, "does not match its name"},
		{"no layer", func(*image.Entry) bool { return false }, 0, "is not in the bundle"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			folder := bundles(t)
			img := image.Small("linux/amd64", 60)
			var entries []image.Entry
			for _, e := range image.OCI([]image.Named{img.Name("quay.io/a:1")}) {
				if !strings.HasSuffix(e.Name, img.Layers[0].Digest.Encoded()) || tc.spoil(&e) {
					entries = append(entries, e)
				}
			}
			old := time.Now().Add(-time.Hour)
			put := func(entries []image.Entry) {
				t.Helper()
				path := image.WriteFile(t, filepath.Join(folder, "a.tar"), image.Tar(entries))
				if err := os.Chtimes(path, old, old); err != nil {
					t.Fatal(err)
				}
			}
			put(entries)
			asked := 0
			l, _ := newLoader(t, folder, func(any) error { asked++; return errors.New("not today") })
			for range 3 {
				if err := l.Load(t.Context()); err == nil || !strings.Contains(err.Error(), tc.says) || asked != tc.pulls {
					t.Errorf("got %v after %d pulls, want %q after %d", err, asked, tc.says, tc.pulls)
				}
			}
			put(image.OCI([]image.Named{img.Name("quay.io/a:1")}))
			if err := l.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "not today") || asked == tc.pulls {
				t.Errorf("got %v after %d pulls, want the good bundle tried", err, asked)
			}
		})
	}
}

// TestFullIsSaidOnce finds no room for an image round after round, with another text each time: how much is free, and where it ran out,
// differs. The log says it once, and what fails in another way as well.
func TestFullIsSaidOnce(t *testing.T) {
	tries := 0
	l, _ := newLoader(t, bundles(t, "a", "b"), func(source any) error {
		tries++
		if err := fmt.Errorf("write snapshot %d", tries); source.(*loader.Source).Image() == "quay.io/b:1" {
			return err
		}
		return fmt.Errorf("write ingest %d: %w", tries, syscall.ENOSPC)
	})
	var text bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&text)
	for range 3 {
		if err := l.Load(log.WithLogger(t.Context(), logrus.NewEntry(logger))); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v, want no room", err)
		}
	}
	for name, want := range map[string]int{"a": 1, "b": 3} {
		if got := strings.Count(text.String(), "image quay.io/"+name+":1 of bundle"); got != want {
			t.Errorf("%s: got %d lines, want %d:\n%s", name, got, want, &text)
		}
	}
}

// TestRefusedLayout refuses a layout whose index others can write to: that says what its images are (REL-10).
func TestRefusedLayout(t *testing.T) {
	folder := bundles(t)
	dir := image.WriteLayout(t, filepath.Join(folder, "layout"), image.OCI([]image.Named{image.Small("linux/amd64", 70).Name("quay.io/a:1")}))
	index := filepath.Join(dir, "index.json")
	for _, paths := range [][]string{{folder}, {dir}} {
		for mode, says := range map[os.FileMode]string{0o666: "refusing bundle " + index + ": mode 0666", 0o644: "not today"} {
			if err := os.Chmod(index, mode); err != nil {
				t.Fatal(err)
			}
			l, _ := newLoader(t, folder, func(any) error { return errors.New("not today") })
			l.Paths = paths
			if err := l.Load(t.Context()); err == nil && mode == 0o644 || !strings.Contains(fmt.Sprint(l.Catalog().Status()[0].Err), says) {
				t.Errorf("%s with mode %o: got %v and %+v, want %q", paths, mode, err, l.Catalog().Status(), says)
			}
		}
	}
}

// TestRefused shows what must not be trusted as any other bundle that failed, until it is mended (REL-10).
func TestRefused(t *testing.T) {
	folder := bundles(t, "a")
	path := filepath.Join(folder, "a.tar")
	asked := 0
	l, _ := newLoader(t, folder, func(any) error { asked++; return errors.New("not today") })
	want := func(path, says string) {
		t.Helper()
		if err := l.Load(t.Context()); err == nil {
			t.Error("got no error")
		}
		s := l.Catalog().Status()
		if len(s) != 1 || s[0].Path != path || s[0].State != loader.Failed || s[0].Err == nil || !strings.Contains(s[0].Err.Error(), says) {
			t.Errorf("got %+v, want %s failed with %q", s, path, says)
		}
	}
	chmod := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(path, 0o666)
	want(path, "refusing bundle "+path+": mode 0666")
	chmod(path, 0o644)
	chmod(folder, 0o777)
	want(folder, "refusing bundles in "+folder+": mode 0777")
	if asked != 0 {
		t.Errorf("got %d pulls of what is refused, want none", asked)
	}
	chmod(folder, 0o755)
	want(path, "not today")
}
