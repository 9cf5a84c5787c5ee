// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// TestCommit puts a bundle of each kind into its place, where all may read it, and fails if another is there by then.
func TestCommit(t *testing.T) {
	for _, name := range []string{"cluster.tar", "cluster.tar.zst", "cluster/"} {
		for _, taken := range []bool{false, true} {
			dir := t.TempDir()
			path := filepath.Join(dir, filepath.Clean(name))
			layout, err := NewLayout(dir + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if err := layout.Index(listing()); err != nil {
				t.Fatal(err)
			}
			if taken {
				if err := os.MkdirAll(path+"/another", 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := layout.Commit(); (err != nil) != taken {
				t.Errorf("%s: got %v where the place is taken: %t", name, err, taken)
			}
			layout.Discard()
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("%s: got %q, want what is in its place alone", name, left)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o444 != 0o444 {
				t.Errorf("%s: got %v %v, want it for all to read", name, info.Mode(), err)
			}
		}
	}
}

// TestIndexFails cannot write the list of images: there is no bundle without it.
func TestIndexFails(t *testing.T) {
	dir := t.TempDir()
	layout, err := NewLayout(dir + "/cluster/")
	if err != nil {
		t.Fatal(err)
	}
	defer layout.Discard()
	if err := os.Mkdir(filepath.Join(layout.(*directory).dir.Name(), ocispec.ImageIndexFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := layout.Commit(); err == nil {
		t.Error("got a bundle without a list of images")
	}
	m := mirrorOf(t, "[[registries]]\ndomain = \"registry.invalid\"\n")
	full := errors.New("disk full")
	if _, err := m.Bundle(t.Context(), nil, noIndex{layout, full}, BundleOptions{}, nil); !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
}

// noIndex is a layout that takes no list of images.
type noIndex struct {
	Layout
	err error
}

func (n noIndex) Index(ocispec.Index) error { return n.err }

// TestSweepOthers sweeps where others write: what no run made is left alone, and nothing is waited for.
func TestSweepOthers(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "left-swp")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "left-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	swept := make(chan struct{})
	go func() {
		sweep(dir, "left-")
		close(swept)
	}()
	select {
	case <-swept:
	case <-time.After(10 * time.Second):
		t.Fatal("got no end, want a pipe that nobody writes to not waited for")
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("got %v, want what has no number left alone", err)
	}
}

// TestSweep sweeps for another run while something is made: before it is open, before it is locked, and after that. What is
// returned is there, and stays.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	const prefix = "left-"
	try := 0
	f, err := locked(func() (*os.File, error) {
		temp, err := os.MkdirTemp(dir, prefix)
		if err != nil {
			return nil, err
		}
		if try++; try == 1 {
			sweep(dir, prefix)
		}
		f, err := os.Open(temp)
		if try == 2 {
			sweep(dir, prefix)
		}
		return f, err
	})
	if err != nil {
		t.Fatal(err)
	}
	sweep(dir, prefix)
	if left, _ := filepath.Glob(filepath.Join(dir, prefix+"*")); len(left) != 1 || left[0] != f.Name() {
		t.Errorf("got %q, want %s", left, f.Name())
	}
	f.Close()
	sweep(dir, prefix)
	if left, _ := filepath.Glob(filepath.Join(dir, prefix+"*")); len(left) > 0 {
		t.Errorf("got %q, want nothing left of a run that was killed", left)
	}
}
