// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package permission_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/permission"
)

// tree makes a directory of files and directories with the given modes; a name that ends in a slash is a directory.
func tree(t *testing.T, modes map[string]os.FileMode) string {
	t.Helper()
	root := t.TempDir()
	for name, mode := range modes {
		path := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
		} else {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// SEC-09, A7: modes, directories, links.
func TestWritable(t *testing.T) {
	root := tree(t, map[string]os.FileMode{
		"good": 0o600, "read": 0o644, "group": 0o620, "world": 0o602,
		"open/": 0o777, "open/file": 0o600, "open/deep/file": 0o600,
		"sticky/": 0o777 | os.ModeSticky, "sticky/file": 0o600,
		"oem/berth/": 0o755, "oem/file": 0o602, "file": 0o600,
	})
	for link, target := range map[string]string{
		"to-good": "good", "to-world": root + "/world", "to-open": "open/file", "dir": "open", "to-sticky": "sticky", "loop": "loop", "to-to-world": "to-world",
		"berth": "oem/berth", "oem/berth/above": "../file", "oem/berth/absolute": root + "/berth/../world",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ name, want string }{
		{"good", ""},
		{"read", ""},
		{"sticky/file", ""},
		{"to-good", ""},
		{"to-sticky/file", ""},
		{"group", "/group has mode 0620: others can write to it; chmod go-w "},
		{"world", "/world has mode 0602: others can write to it"},
		{"open/file", "/open has mode 0777: others can write to it"},
		{"open/deep/file", "/open has mode 0777: others can write to it"},
		{"to-world", "/world has mode 0602"},
		{"to-to-world", "/world has mode 0602"},
		{"to-open", "/open has mode 0777"},
		{"dir/file", "/open has mode 0777"},
		{"berth/above", "/oem/file has mode 0602"}, // and not what is above the link berth
		{"berth/../file", "/oem/file has mode 0602"},
		{"berth/absolute", "/oem/world: no such file"},
		{"loop", "too many levels of symbolic links"},
	} {
		err := permission.Writable(root + "/" + tt.name)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if err := permission.Writable(filepath.Join(root, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: got %v", err)
	}
}

// SEC-09: a file, and a directory above one, of another user.
func TestWritableByItsOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	root := tree(t, map[string]os.FileMode{"file": 0o600, "dir/file": 0o600, "sticky/": 0o777 | os.ModeSticky, "sticky/file": 0o600})
	// A link that another user made in a sticky directory leads where that user wants.
	shared := tree(t, map[string]os.FileMode{"good": 0o600, "tmp/": 0o777 | os.ModeSticky})
	for name, target := range map[string]string{"link": "../good", "dir": ".."} {
		if err := os.Symlink(target, filepath.Join(shared, "tmp", name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"tmp/link", "tmp/dir/good"} {
		if err := permission.Writable(filepath.Join(shared, name)); err != nil {
			t.Errorf("%s: got %v of a link of our own", name, err)
		}
		link := filepath.Join(shared, "tmp", strings.Split(name, "/")[1])
		if err := os.Lchown(link, 1000, 0); err != nil {
			t.Fatal(err)
		}
		want := link + " belongs to user 1000, who can write to it; chown -h root " + link
		if err := permission.Writable(filepath.Join(shared, name)); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	for _, name := range []string{"file", "dir", "sticky"} {
		if err := os.Chown(filepath.Join(root, name), 1000, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"file", "dir/file", "sticky/file"} {
		if err := permission.Writable(filepath.Join(root, name)); err == nil || !strings.Contains(err.Error(), "belongs to user 1000") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// SEC-09: a secret that others can read, its group included.
func TestReadable(t *testing.T) {
	root := tree(t, map[string]os.FileMode{"good": 0o600, "group": 0o640, "world": 0o604, "exec": 0o711})
	for name, want := range map[string]string{"good": "", "exec": "", "group": "/group has mode 0640, want 0600", "world": "/world has mode 0604, want 0600"} {
		err := permission.Readable(filepath.Join(root, name))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	if err := permission.Readable(filepath.Join(root, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: got %v", err)
	}
}
