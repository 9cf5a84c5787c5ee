// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/loader/bundle"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// TestL20SpecialFiles is about what is no file, or none that may be followed: it is refused, and never waited for.
func TestL20SpecialFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := unix.Mkfifo(at("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := os.Symlink(write(t, pack(t, legacy(twoImages(t))...)), at("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		at("fifo"):   "is a FIFO, not a regular file or a directory",
		at("socket"): "is a socket, not a regular file or a directory",
		at("link"):   "is a symbolic link, not a regular file or a directory",
		"/dev/zero":  "is a device, not a regular file or a directory",
		at("dir"):    "the directory is no OCI layout: it has no oci-layout",
		at("absent"): "no such file or directory",
	} {
		if err := refused(t, path, want); path == at("absent") && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want one that is not exist", err)
		}
	}
	if os.Getuid() != 0 {
		path := write(t, pack(t, legacy(twoImages(t))...))
		os.Chmod(path, 0)
		refused(t, path, "permission denied")
	}
}

// TestLayoutStaysInside is about a layout whose files are links, pipes, or directories.
func TestLayoutStaysInside(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)}, "example/a:1")
	secret := write(t, image.layers[0].packed)
	for name, put := range map[string]func(path string) error{
		"cannot be read: path escapes from parent": func(path string) error { return os.Symlink(secret, path) },
		"is no regular file":                       func(path string) error { return unix.Mkfifo(path, 0o644) },
	} {
		dir := writeDir(t, oci([]source{image})...)
		for _, data := range [][]byte{image.layers[0].packed, image.config} {
			path := filepath.Join(dir, "blobs", "sha256", hexOf(data))
			b := open(t, dir, nil)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			desc := descOf("", data)
			if r, err := b.Fetch(t.Context(), desc); err == nil {
				r.Close()
				t.Errorf("%s: got content after it was replaced", name)
			}
			if data[0] == '{' {
				refused(t, dir, name)
				continue
			}
			b = open(t, dir, nil)
			_, err := b.Fetch(t.Context(), desc)
			if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), name) || b.Has(desc.Digest) {
				t.Errorf("got error %v, want one with %q", err, name)
			}
		}
	}
	dir := writeDir(t, oci([]source{image})...)
	if err := os.Rename(filepath.Join(dir, "index.json"), secret); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "index.json")); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "index.json cannot be read: path escapes from parent")
}

// TestMissing is about blobs that a bundle does not hold (E28, E46), and descriptors that are of none (E33, E34).
func TestMissing(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)}, "example/a:1")
	members := oci([]source{image})
	var without []member
	for _, m := range members {
		if !strings.HasSuffix(m.name, hexOf(image.layers[0].packed)) {
			without = append(without, m)
		}
	}
	foreign := descOf(ocispec.MediaTypeImageLayerGzip, image.layers[0].packed)
	foreign.URLs = []string{"http://127.0.0.1:1/"}
	config := descOf(ocispec.MediaTypeImageConfig, image.config)
	negative, large, path := config, config, config
	negative.Size, large.Size, path.Digest = -1, config.Size+1, "sha256:../../etc/passwd"
	for _, b := range []*bundle.Bundle{
		open(t, write(t, pack(t, without...)), nil), open(t, write(t, gzipped(t, pack(t, without...))), nil), open(t, writeDir(t, without...), nil),
	} {
		for _, test := range []struct {
			desc    ocispec.Descriptor
			want    string
			missing bool
		}{
			{foreign, "layer " + foreign.Digest.String() + " is not in the bundle", true},
			{negative, "has the negative size -1", false},
			{large, "as its descriptor says", false},
			{path, `invalid digest "sha256:../../etc/passwd"`, false},
		} {
			_, err := b.Fetch(t.Context(), test.desc)
			_, atErr := b.ReaderAt(t.Context(), test.desc)
			for _, err := range []error{err, atErr, b.Check(t.Context(), test.desc)} {
				if err == nil || errdefs.IsNotFound(err) != test.missing || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), b.Path()) {
					t.Errorf("got error %v, want one with %q and %q, not found %v", err, test.want, b.Path(), test.missing)
				}
			}
		}
		if b.Has(foreign.Digest) || b.Has(path.Digest) {
			t.Error("got a blob that is not there")
		}
	}
}

// TestE29Check is about blobs that are not what they are named for. Whoever stores them notices; Check says why.
func TestE29Check(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)}, "example/a:1")
	l := image.layers[0]
	for _, test := range []struct {
		name    string
		members []member
		data    []byte
	}{
		{"does not match its name: its content is sha256:", oci([]source{image}), l.packed},
		{"does not match its name: its content is sha256:", crane([]source{image}), l.packed},
		{"is expected here, but its content is sha256:", legacy([]source{image}), l.raw},
	} {
		for i, m := range test.members {
			if string(m.data) == string(test.data) {
				data := []byte(string(m.data))
				data[len(data)/2] ^= 1
				test.members[i].data = data
			}
		}
		for _, packing := range packings {
			b := open(t, write(t, packing.pack(t, pack(t, test.members...))), nil)
			err := b.Check(t.Context(), descOf("", test.data))
			if err == nil || !strings.Contains(err.Error(), test.name) || !strings.Contains(err.Error(), digest.FromBytes(test.data).String()) {
				t.Errorf("got error %v, want one with %q", err, test.name)
			}
		}
	}
}

// TestChanged is about bundles that are written to, cut off, replaced or removed (L9).
func TestChanged(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)}, "example/a:1")
	members := oci([]source{image})
	changes := map[string]func(path string) error{
		"appended": func(path string) error {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Write([]byte("x"))
			return err
		},
		"truncated": func(path string) error { return os.Truncate(path, 1000) },
		"replaced": func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return errors.Join(os.WriteFile(path+".new", data, 0o644), os.Rename(path+".new", path))
		},
		"removed": os.Remove,
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			for _, packing := range packings[:3] {
				path := write(t, packing.pack(t, pack(t, members...)))
				b := open(t, path, nil)
				first := true
				err := b.Walk(t.Context(), func(_ digest.Digest, _ int64, r io.Reader) error {
					if first {
						first = false
						return change(path)
					}
					_, err := io.Copy(io.Discard, r)
					return err
				})
				if !errors.Is(err, bundle.ErrChanged) || !strings.Contains(err.Error(), path) {
					t.Errorf("walk: got error %v, want one that it changed", err)
				}
				if !b.Changed() {
					t.Error("got not changed, want changed")
				}
				path = write(t, packing.pack(t, pack(t, members...)))
				if b, err := bundle.Open(&meddler{Context: t.Context(), meddle: func() { change(path) }}, path, nil); !errors.Is(err, bundle.ErrChanged) {
					t.Errorf("open: got %v and error %v, want one that it changed", b, err)
				}
			}
			dir := writeDir(t, members...)
			b := open(t, dir, nil)
			if err := os.WriteFile(filepath.Join(dir, "unrelated"), nil, 0o644); err != nil || b.Changed() {
				t.Errorf("got changed by a file that is not read (error %v)", err)
			}
			if err := change(filepath.Join(dir, "index.json")); err != nil {
				t.Fatal(err)
			}
			if !b.Changed() {
				t.Error("got a layout not changed, want changed")
			}
		})
	}
}

// TestReplacedBetweenReads has another file at the path of a bundle that nobody reads just then, often one of the same inode: nothing
// is read of it. Other rights do not make it another, and no other inode.
func TestReplacedBetweenReads(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1000)}, "example/a:1")
	layer := descOf("", image.layers[0].packed)
	members := oci([]source{image})
	for _, packing := range packings[:3] {
		path := write(t, packing.pack(t, pack(t, members...)))
		b := open(t, path, nil)
		for name, change := range map[string]func() error{
			"other rights":  func() error { return os.Chmod(path, 0o600) },
			"another inode": func() error { return renumber(path) },
		} {
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if r, err := b.Fetch(t.Context(), layer); err != nil {
				t.Errorf("%s, with %s: %v", packing.name, name, err)
			} else {
				r.Close()
			}
		}
		slices.Reverse(members)
		if err := errors.Join(os.Remove(path), os.WriteFile(path, packing.pack(t, pack(t, members...)), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Fetch(t.Context(), layer); !errors.Is(err, bundle.ErrChanged) {
			t.Errorf("%s: got %v, want an error that the file changed", packing.name, err)
		}
	}
}

// renumber gives a file another inode, as FAT does when one that nobody has open is read again.
func renumber(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	again := path + ".again"
	return errors.Join(os.WriteFile(again, data, info.Mode()), os.Chtimes(again, time.Time{}, info.ModTime()), os.Rename(again, path))
}

// TestCutOff is about a file that gets shorter behind a reader's back: what it reads does not just end.
func TestCutOff(t *testing.T) {
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 2_000_000)}, "example/a:1")
	l := image.layers[0].packed
	for _, packing := range packings[:3] {
		path := write(t, packing.pack(t, pack(t, oci([]source{image})...)))
		b := open(t, path, nil)
		r, err := b.Fetch(t.Context(), descOf("", l))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := os.Truncate(path, 200_000); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); !errors.Is(err, bundle.ErrChanged) || n >= int64(len(l)) {
			t.Errorf("%s: got %d bytes and error %v, want one that the file changed", packing.name, n, err)
		}
	}
}

// meddler is a context that does something once, when it is first asked.
type meddler struct {
	context.Context
	once   sync.Once
	meddle func()
}

func (m *meddler) Err() error {
	m.once.Do(m.meddle)
	return m.Context.Err()
}

// TestWalkStops is about a walk whose caller has had enough, or whose context ends.
func TestWalkStops(t *testing.T) {
	stop := errors.New("stop")
	for _, packing := range packings[:3] {
		b := open(t, write(t, packing.pack(t, pack(t, legacy(twoImages(t))...))), nil)
		calls := 0
		err := b.Walk(t.Context(), func(digest.Digest, int64, io.Reader) error { calls++; return stop })
		if !errors.Is(err, stop) || calls != 1 {
			t.Errorf("%s: got error %v after %d calls, want it after one", packing.name, err, calls)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = b.Walk(ctx, func(digest.Digest, int64, io.Reader) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got error %v, want canceled", packing.name, err)
		}
		if _, err := bundle.Open(ctx, b.Path(), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: open: got error %v, want canceled", packing.name, err)
		}
		// A blob need not be read to its end.
		if err := b.Walk(t.Context(), func(_ digest.Digest, _ int64, r io.Reader) error {
			_, err := io.CopyN(io.Discard, r, 1)
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

// TestConcurrent reads all blobs of a bundle at the same time.
func TestConcurrent(t *testing.T) {
	images := twoImages(t)
	for _, packing := range packings[:3] {
		b := open(t, write(t, packing.pack(t, pack(t, legacy(images)...))), nil)
		var wg sync.WaitGroup
		for range 4 {
			for _, image := range images {
				for _, l := range image.layers {
					wg.Go(func() {
						r, err := b.Fetch(t.Context(), descOf("", l.raw))
						if err != nil {
							t.Error(err)
							return
						}
						defer r.Close()
						got, err := digest.FromReader(r)
						if want := digest.FromBytes(l.raw); got != want || err != nil {
							t.Errorf("got %s and error %v, want %s", got, err, want)
						}
					})
				}
			}
		}
		wg.Wait()
	}
}
