// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
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

// TestFindUntrusted has bundles that others than root can put there, or put another in the place of (REL-10): by their mode, for the
// group too, by their owner, and by the directory that a link leads into.
func TestFindUntrusted(t *testing.T) {
	for _, tc := range []struct {
		name    string
		make    func(folder, elsewhere string) error
		refused string // "" is found
	}{
		{"good", func(string, string) error { return nil }, ""},
		{"group", func(folder, _ string) error { return os.Chmod(filepath.Join(folder, "a.tar"), 0o664) }, "mode 0664"},
		{"group of the folder", func(folder, _ string) error { return os.Chmod(folder, 0o775) }, "mode 0775"},
		{"owner", func(folder, _ string) error { return os.Chown(filepath.Join(folder, "a.tar"), 1000, 0) }, "it belongs to user 1000; chown root"},
		{"owner of the folder", func(folder, _ string) error { return os.Chown(folder, 1000, 0) }, "it belongs to user 1000; chown root"},
		{"link", func(folder, elsewhere string) error { return link(folder, elsewhere) }, ""},
		{"link into a directory of others", func(folder, elsewhere string) error {
			return errors.Join(link(folder, elsewhere), os.Chmod(elsewhere, 0o777))
		}, "mode 0777"},
		{"link to a file of others", func(folder, elsewhere string) error {
			return errors.Join(link(folder, elsewhere), os.Chmod(filepath.Join(elsewhere, "a.tar"), 0o666))
		}, "mode 0666"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if strings.HasPrefix(tc.name, "owner") && os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			folder, elsewhere := t.TempDir(), t.TempDir()
			for _, dir := range []string{folder, elsewhere} {
				if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "a.tar"), []byte("x"), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if err := tc.make(folder, elsewhere); err != nil {
				t.Fatal(err)
			}
			files, refused := find([]string{folder})
			if tc.refused == "" && (len(files) != 1 || len(refused) != 0) {
				t.Errorf("got %q, and %v refused, want one bundle", files, refused)
			}
			if tc.refused != "" && (len(files) != 0 || len(refused) != 1 || !strings.Contains(refused[0].err.Error(), tc.refused)) {
				t.Errorf("got %q, and %v refused, want one refused with %q", files, refused, tc.refused)
			}
		})
	}
}

// link makes the one bundle of a folder a link to that of another.
func link(folder, elsewhere string) error {
	path := filepath.Join(folder, "a.tar")
	return errors.Join(os.Remove(path), os.Symlink(filepath.Join(elsewhere, "a.tar"), path))
}
