// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestFindNames has files with names that are not UTF-8, which neither a label nor an answer of containerd can hold: they are
// refused in words that can be said, and what lies beside them is found.
func TestFindNames(t *testing.T) {
	folder, store := t.TempDir(), t.TempDir()
	for _, path := range []string{filepath.Join(folder, "good.tar"), filepath.Join(folder, "bad\xfe.tar"), filepath.Join(folder, "bad\xff.tar"), filepath.Join(store, "far\xfe.tar")} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(store, "far\xfe.tar"), filepath.Join(folder, "link.tar")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(folder, "no-bundle\xff"), 0o700); err != nil {
		t.Fatal(err)
	}
	files, refused := find([]string{folder})
	if len(files) != 1 || filepath.Base(files[0]) != "good.tar" {
		t.Errorf("got %q, want good.tar alone", files)
	}
	if len(refused) != 3 || refused[0].path == refused[1].path {
		t.Fatalf("got %v refused, want 3 of different names", refused)
	}
	for i, name := range []string{`bad\xfe.tar"`, `bad\xff.tar"`, `far\xfe.tar"`} {
		text := refused[i].err.Error()
		if !strings.Contains(text, name+": its name is not UTF-8; rename it") || !utf8.ValidString(refused[i].path+text) {
			t.Errorf("got %q: %s, want %s refused", refused[i].path, text, name)
		}
	}
	link := filepath.Join(t.TempDir(), "link.tar") // a path by itself, and where it leads
	if err := os.Symlink(filepath.Join(store, "far\xfe.tar"), link); err != nil {
		t.Fatal(err)
	}
	files, refused = find([]string{link})
	if len(files) != 0 || len(refused) != 1 || !strings.Contains(refused[0].err.Error(), `far\xfe.tar": its name is not UTF-8; rename it`) || !utf8.ValidString(refused[0].path) {
		t.Errorf("%s: got %q, and %v refused; want it refused", link, files, refused)
	}
}

// TestFindLayouts tells a layout from a folder that holds one, whatever that is called.
func TestFindLayouts(t *testing.T) {
	folder := t.TempDir()
	layout := filepath.Join(folder, "oci-layout")
	if err := os.Mkdir(layout, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(layout, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{folder, layout} {
		files, refused := find([]string{path})
		if len(files) != 1 || files[0] != layout || len(refused) != 0 {
			t.Errorf("%s: got %q, and %v refused; want %s", path, files, refused, layout)
		}
	}
}

// TestFindFolders has folders in a folder of bundles: one with archives is refused in words, unless it is a path itself, and what is
// no bundle's is passed over.
func TestFindFolders(t *testing.T) {
	folder := t.TempDir()
	for _, file := range []string{"a.tar", "more/b.tar.zst", "lost+found/#12", "notes/readme.md"} {
		path := filepath.Join(folder, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	more := filepath.Join(folder, "more")
	files, refused := find([]string{folder})
	if len(files) != 1 || len(refused) != 1 || refused[0].path != more || !strings.Contains(refused[0].err.Error(), more+" lies in a folder of bundles, and is not gone into; name it in paths") {
		t.Errorf("got %q, and %v refused; want a.tar, and %s refused", files, refused, more)
	}
	if files, refused = find([]string{folder, more}); len(files) != 2 || len(refused) != 0 {
		t.Errorf("got %q, and %v refused; want both archives", files, refused)
	}
}
