// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestLoadedByHand changes bundles that were loaded by hand, while the folder's own are loaded.
func TestLoadedByHand(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{Level: "info"})
	l.start(t)
	byHand := func(t *testing.T, path string) {
		t.Helper()
		if out, errs, code := berth(t, "load", "--address", l.Address, path); code != 0 {
			t.Fatalf("load: got %d\n%s%s", code, out, errs)
		}
	}

	t.Run("copied again, slowly", func(t *testing.T) {
		_, bundle := bundleOf(1, "quay.io/hand:1")
		path := image.WriteFile(t, filepath.Join(openDir(t), "hand.tar"), bundle)
		byHand(t, path)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		stop := make(chan struct{})
		copied := make(chan error)
		go func() {
			for _, b := range bundle {
				select {
				case <-stop:
					copied <- nil
					return
				case <-time.After(100 * time.Millisecond):
				}
				if _, err := f.Write([]byte{b}); err != nil {
					copied <- err
					return
				}
			}
		}()
		defer func() {
			close(stop)
			if err := <-copied; err != nil {
				t.Error(err)
			}
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}()
		round := l.rounds()
		for i, name := range []string{"one", "two"} {
			img, bundle := bundleOf(uint64(2+i), "quay.io/"+name+":1")
			l.put(t, name+".tar", bundle)
			l.becomesLoaded(t, "quay.io/"+name+":1", img)
			l.waitRound(t, round+i)
		}
	})

	t.Run("replaced by who must not be trusted", func(t *testing.T) {
		own, theirs := oneLayer(10, "quay.io/own:1"), oneLayer(11, "quay.io/own:1")
		path := image.WriteFile(t, filepath.Join(openDir(t), "own.tar"), image.Tar(image.OCI([]image.Named{own})))
		byHand(t, path)
		other := image.WriteFile(t, filepath.Join(filepath.Dir(path), "other"), image.Tar(image.OCI([]image.Named{theirs})))
		if err := errors.Join(os.Chown(other, 12345, 12345), os.Rename(other, path)); err != nil {
			t.Fatal(err)
		}
		img, bundle := bundleOf(12, "quay.io/beside:1")
		l.put(t, "beside.tar", bundle)
		l.becomesLoaded(t, "quay.io/beside:1", img)
		refusal := path + ": failed\n    error: refusing bundle " + path + ": it belongs to user 12345"
		within(t, 10*time.Second, "refusal", func() bool { out, _ := l.status(t); return strings.Contains(out, refusal) })
		if got := targets(t, l.Daemon, "k8s.io")["quay.io/own:1"]; got != own.Digest {
			t.Errorf("got image %s, want %s, which was loaded", got, own.Digest)
		}
		round := l.rounds()
		if err := os.Chown(path, 0, 0); err != nil {
			t.Fatal(err)
		}
		_, bundle = bundleOf(13, "quay.io/again:1")
		l.put(t, "again.tar", bundle)
		l.waitRound(t, round)
		within(t, 10*time.Second, "image of the bundle that is trusted now", func() bool { return targets(t, l.Daemon, "k8s.io")["quay.io/own:1"] == theirs.Digest })
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("of the folder, and refused since", func(t *testing.T) {
		path := l.bundle(t, "open.tar", oneLayer(20, "quay.io/open:1"))
		byHand(t, path)
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		var out string
		within(t, 10*time.Second, "refusal", func() bool { out, _ = l.status(t); return strings.Contains(out, "error: refusing bundle "+path) })
		if n := strings.Count(out, "  "+path+": "); n != 1 {
			t.Errorf("got the bundle %d times in the status, want once\n%s", n, out)
		}
	})
}

// TestHungFileSystem has the file system hang that a bundle was loaded from by hand, as one of NFS does whose server is away: whoever
// looks for changes waits for it, and pulls and the status do not.
func TestHungFileSystem(t *testing.T) {
	daemon.RequireRoot(t)
	server, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no file system can be made here that hangs: %v", err)
	}
	answers := sync.OnceFunc(func() { _ = unix.Close(server) }) // that it is gone
	l := newLoading(t, "", daemon.Options{CRI: true, Level: "info"})
	t.Cleanup(answers)
	img, bundle := bundleOf(30, "quay.io/local:1")
	l.put(t, "local.tar", bundle)
	l.start(t)
	l.becomesLoaded(t, "quay.io/local:1", img)
	_, bundle = bundleOf(31, "quay.io/far:1")
	far := openDir(t)
	path := image.WriteFile(t, filepath.Join(far, "far.tar"), bundle)
	if out, errs, code := berth(t, "load", "--address", l.Address, path); code != 0 {
		t.Fatalf("load: got %d\n%s%s", code, out, errs)
	}
	if err := unix.Mount("hangs", far, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(far, unix.MNT_DETACH) })
	img, bundle = bundleOf(32, "quay.io/later:1")
	l.put(t, "later.tar", bundle)
	time.Sleep(time.Second) // until the change is looked at
	answered := make(chan error, 1)
	go func() {
		l.status(t)
		answered <- pullCRI(t, l.Daemon, "quay.io/local:1")
	}()
	select {
	case err := <-answered:
		if err != nil {
			t.Errorf("pull: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("got no answer, want a status and a pull")
	}
	answers()
	l.becomesLoaded(t, "quay.io/later:1", img)
}
