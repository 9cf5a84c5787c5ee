// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package powercut_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/powercut"
)

// TestCut shows that a cut loses what was not synced, and nothing else.
func TestCut(t *testing.T) {
	daemon.RequireRoot(t)
	disk := powercut.New(t, 32<<20)
	write := func(name string, sync bool) {
		t.Helper()
		f, err := os.Create(filepath.Join(disk.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(name); err != nil {
			t.Fatal(err)
		}
		if sync {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("before", false) // its name is committed with the next file's, its data is not
	write("synced", true)
	write("after", false)
	held := filepath.Join(t.TempDir(), "held")
	if err := os.Mkdir(held, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(disk.Dir, held, "", unix.MS_BIND, ""); err != nil { // as of a process that was killed
		t.Fatal(err)
	}
	disk.Cut(t)
	if err := os.Mkdir(filepath.Join(disk.Dir, "late"), 0o700); err == nil {
		t.Error("got no error of a write after the cut, want one")
	}
	disk.Restore(t)
	for name, want := range map[string]string{"before": "", "synced": "synced", "after": "not there", "late": "not there"} {
		got := "not there"
		if data, err := os.ReadFile(filepath.Join(disk.Dir, name)); err == nil {
			got = string(data)
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	write("again", true)
}
