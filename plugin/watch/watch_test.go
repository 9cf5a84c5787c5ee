// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package watch_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/plugin/watch"
)

// H4: every way in which a file gets into a watched place is told of, and what happens elsewhere is not.
func TestWatch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		path   string // below the test's directory
		before func(dir string) error
		change func(dir string) error
		paths  bool // Paths tells of it
		within bool // Folders tells of it
	}{
		{"a file appears", "folder", mkdir("folder"), write("folder/a"), true, true},
		{"a file is renamed into its place", "folder", both(mkdir("folder"), write("a")), rename("a", "folder/a"), true, true},
		{"a file is removed", "folder", both(mkdir("folder"), write("folder/a")), remove("folder/a"), true, true},
		{"the folder appears", "above/folder", nil, mkdir("above/folder"), true, true},
		{"the folder is another", "folder", both(mkdir("folder"), mkdir("other")), both(remove("folder"), rename("other", "folder")), true, true},
		{"a link is switched", "folder/..data/file", both(mkdir("folder/1"), mkdir("folder/2"), link("1", "folder/..data")),
			both(link("2", "folder/new"), rename("folder/new", "folder/..data")), true, true},
		{"a pattern's folder gets a file", "folder/*.toml", mkdir("folder"), write("folder/a.toml"), true, true},
		{"a directory in the folder gets a file", "folder", mkdir("folder/layout"), write("folder/layout/index.json"), false, true},
		{"what a link in the folder leads to is another", "folder", both(both(mkdir("folder"), mkdir("far")), both(write("far/new"), both(write("far/a"), link("../far/a", "folder/a")))),
			rename("far/new", "far/a"), false, true},
		{"what an absolute link in the folder leads to is another", "folder", both(mkdir("folder"), mkdir("far"), write("far/new"), write("far/a"), linkAbsolute("far/a", "folder/a")),
			rename("far/new", "far/a"), false, true},
		{"what a link in the folder leads to by another is another", "folder", both(mkdir("folder"), mkdir("far"), mkdir("farther"), write("farther/new"), write("farther/a"), link("../farther/a", "far/a"), link("../far/a", "folder/a")),
			rename("farther/new", "farther/a"), false, true},
		{"a file appears beside a link to itself", "folder", both(mkdir("folder"), link("a", "folder/a")), write("folder/b"), true, true},
		{"what a link in the folder leads to appears", "folder", both(mkdir("folder"), link("../far/away/a", "folder/a")), both(mkdir("far/away"), write("far/away/a")), true, true},
		{"what the folder leads to appears", "folder", link("far/away", "folder"), mkdir("far/away"), true, true},
		{"something else", "folder", both(mkdir("folder"), mkdir("else")), write("else/a"), false, false},
	} {
		for _, of := range []struct {
			name  string
			watch func(context.Context, ...string) <-chan struct{}
			want  bool
		}{
			{"Paths", watch.Paths, tt.paths},
			{"Folders", watch.Folders, tt.within},
		} {
			t.Run(of.name+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				if tt.before != nil {
					if err := tt.before(dir); err != nil {
						t.Fatal(err)
					}
				}
				changes := of.watch(t.Context(), filepath.Join(dir, tt.path))
				time.Sleep(500 * time.Millisecond) // until it watches, and has looked at the mounts, as it does when it begins
				if err := tt.change(dir); err != nil {
					t.Fatal(err)
				}
				limit := 10 * time.Second
				if !of.want {
					limit = time.Second
				}
				select {
				case <-changes:
					if !of.want {
						t.Error("got a change, want none")
					}
				case <-time.After(limit):
					if of.want {
						t.Error("got no change, want one")
					}
				}
			})
		}
	}
}

// A directory that several names lead to is watched as long as one of them does.
func TestNameGoes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	names := []string{"folder/1", "folder/2", "folder/3", "folder/4"}
	if err := mkdir("folder/layout")(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := link("layout", name)(dir); err != nil {
			t.Fatal(err)
		}
	}
	changes := watch.Folders(t.Context(), filepath.Join(dir, "folder"))
	time.Sleep(100 * time.Millisecond) // until it watches
	for _, name := range names {
		for _, change := range []step{remove(name), write("folder/layout/index.json")} {
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			select {
			case <-changes:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s went: got no change, want one", name)
			}
		}
	}
}

// A file system that is mounted over a folder is told of, which inotify is not.
func TestMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := t.TempDir()
	changes := watch.Paths(t.Context(), dir)
	time.Sleep(100 * time.Millisecond)
	if err := unix.Mount("berth-test", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	for _, change := range []func() error{
		func() error { return nil },
		func() error { return os.WriteFile(filepath.Join(dir, "inside"), nil, 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Fatal("got no change, want one")
		}
	}
}

// H5: where no watcher can be made, here since the process has no file descriptor left, a change is told of all the same.
func TestNoWatcher(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	changes := watch.Paths(t.Context(), t.TempDir())
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changes:
	case <-time.After(20 * time.Second):
		t.Error("got no change, want one every 5 seconds")
	}
}

// TestNoWatches is as TestNoWatcher where the kernel has no more watches for the user, as on a node with many pods (H5), which is said
// once. A user namespace has a limit of its own.
func TestNoWatches(t *testing.T) {
	const inside = "BERTH_TEST_NO_WATCHES"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestNoWatches$")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			t.Errorf("%v\n%s", err, out)
		case err != nil:
			t.Skipf("no user namespace can be made here: %v", err)
		}
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_inotify_watches", []byte("0"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	logger := logrus.New()
	logger.Out = out
	changes := watch.Paths(log.WithLogger(t.Context(), logrus.NewEntry(logger)), t.TempDir())
	for range 2 {
		select {
		case <-changes:
		case <-time.After(20 * time.Second):
			t.Fatal("got no change, want one every 5 seconds")
		}
	}
	said, err := os.ReadFile(out.Name())
	if got := strings.Count(string(said), "not all directories can be watched"); err != nil || got != 1 {
		t.Errorf("got it said %d times (%v), want once:\n%s", got, err, said)
	}
}

// TestFolderComesBack takes a folder away for a moment: inotify watches it no more, though it is the same as before.
func TestFolderComesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := mkdir("folder")(dir); err != nil {
		t.Fatal(err)
	}
	changes := watch.Folders(t.Context(), filepath.Join(dir, "folder"))
	time.Sleep(100 * time.Millisecond) // until it watches
	for _, change := range []step{both(rename("folder", "away"), rename("away", "folder")), write("folder/a"), write("folder/b")} {
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Fatal("got no change, want one")
		}
	}
}

type step = func(dir string) error

func both(steps ...step) step {
	return func(dir string) error {
		for _, s := range steps {
			if err := s(dir); err != nil {
				return err
			}
		}
		return nil
	}
}

func mkdir(name string) step {
	return func(dir string) error { return os.MkdirAll(filepath.Join(dir, name), 0o700) }
}

func write(name string) step {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600) }
}

func remove(name string) step {
	return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
}

func rename(from, to string) step {
	return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
}

func link(target, name string) step {
	return func(dir string) error { return os.Symlink(target, filepath.Join(dir, name)) }
}

func linkAbsolute(target, name string) step {
	return func(dir string) error { return os.Symlink(filepath.Join(dir, target), filepath.Join(dir, name)) }
}
