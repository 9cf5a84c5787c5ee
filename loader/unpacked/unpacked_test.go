// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package unpacked_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"

	"github.com/berth-edge/berth/loader/unpacked"
)

// layer is a compressed layer with every kind of entry that a power cut can damage.
func layer(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	for _, h := range []struct {
		tar.Header
		data string
	}{
		{tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		{tar.Header{Name: "etc/empty", Typeflag: tar.TypeReg, Mode: 0o644}, ""},
		{tar.Header{Name: "./etc/conf", Typeflag: tar.TypeReg, Mode: 0o600}, "first"},
		{tar.Header{Name: "bin/run", Typeflag: tar.TypeReg, Mode: 0o4755}, string(bytes.Repeat([]byte("program "), 20000))},
		{tar.Header{Name: "bin/also", Typeflag: tar.TypeLink, Linkname: "bin/run", Mode: 0o4755}, ""},
		{tar.Header{Name: "/bin/too", Typeflag: tar.TypeLink, Linkname: "/bin/run", Mode: 0o4755}, ""},
		{tar.Header{Name: "bin/link", Typeflag: tar.TypeSymlink, Linkname: "run"}, ""},
		{tar.Header{Name: "etc/conf", Typeflag: tar.TypeReg, Mode: 0o600}, "second"},
		{tar.Header{Name: "etc/.wh.gone", Typeflag: tar.TypeReg}, ""},
	} {
		h.Size = int64(len(h.data))
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if err := w.WriteHeader(&h.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(h.data)); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	zip.Close()
	return b.Bytes()
}

// unpack unpacks the layer to a directory as the overlay snapshotter calls them.
func unpack(t *testing.T, blob []byte) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a whiteout is a device, which only root can make")
	}
	dir := filepath.Join(t.TempDir(), "1", "fs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Apply(t.Context(), dir, zip, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// REL-05, L16: whatever a power cut did to a file is found, and mended so that nothing is found any more.
func TestDamageIsFoundAndMended(t *testing.T) {
	blob := layer(t)
	for _, tt := range []struct {
		name   string
		damage func(dir string) error
		want   []string
	}{
		{"none", func(string) error { return nil }, nil},
		{"empty file", func(dir string) error { return os.Truncate(dir+"/bin/run", 0) }, []string{"bin/run"}},
		{"short file", func(dir string) error { return os.Truncate(dir+"/bin/run", 70000) }, []string{"bin/run"}},
		{"zeros of the same size", func(dir string) error { return os.WriteFile(dir+"/etc/conf", make([]byte, 6), 0o600) }, []string{"etc/conf"}},
		{"missing file", func(dir string) error { return os.Remove(dir + "/etc/conf") }, []string{"etc/conf"}},
		{"missing link", func(dir string) error { return os.Remove(dir + "/bin/link") }, []string{"bin/link"}},
		{"missing directory", func(dir string) error { return os.RemoveAll(dir + "/etc") }, []string{"etc", "etc/empty", "etc/conf"}},
		{"file in the place of a directory", func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/etc"), os.WriteFile(dir+"/etc", nil, 0o600))
		}, []string{"etc", "etc/empty", "etc/conf"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := unpack(t, blob)
			if err := tt.damage(dir); err != nil {
				t.Fatal(err)
			}
			found, err := unpacked.Damaged(dir, bytes.NewReader(blob))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(found, tt.want) {
				t.Errorf("got %q, want %q", found, tt.want)
			}
			if err := unpacked.Mend(t.Context(), dir, bytes.NewReader(blob), found); err != nil {
				t.Fatal(err)
			}
			if found, err := unpacked.Damaged(dir, bytes.NewReader(blob)); err != nil || len(found) > 0 {
				t.Errorf("got %q %v after mending, want nothing", found, err)
			}
			run, _ := os.Stat(dir + "/bin/run")
			also, _ := os.Stat(dir + "/bin/also")
			too, _ := os.Stat(dir + "/bin/too")
			if !os.SameFile(run, also) || !os.SameFile(run, too) || run.Mode() != 0o755|os.ModeSetuid {
				t.Errorf("got %v, and a link to it is another file, want one file of mode 4755", run.Mode())
			}
			if !unpacked.Marked(dir) {
				t.Error("the directory is not marked")
			}
		})
	}
}

func TestSuspicious(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(path string) error
		want bool
	}{
		{"a file", func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) }, false},
		{"an empty file", func(path string) error { return os.WriteFile(path, nil, 0o600) }, true},
		{"a hole", func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 5000))
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := tt.make(filepath.Join(dir, "file")); err != nil {
				t.Fatal(err)
			}
			if got, err := unpacked.Suspicious(dir); err != nil || got != tt.want {
				t.Errorf("got %t %v, want %t", got, err, tt.want)
			}
		})
	}
}

// Layers that were unpacked one over the other are compared without what those above hide.
func TestTree(t *testing.T) {
	layers := []string{ // the lowest first; a path that ends in / is a directory, and in > a link to usr/lib
		"etc/ etc/low etc/both etc/gone old/ old/a old/b/ old/b/c lib> usr/lib/ lib/x file var/ var/z",
		"etc/both etc/.wh.gone old/.wh..wh..opq old/d lib/x lib/y file/ file/in .wh.var var>",
	}
	dir := t.TempDir()
	var blobs [][]byte
	for i, text := range layers {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name := range strings.FieldsSeq(text) {
			h, data := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Uid: os.Getuid(), Gid: os.Getgid()}, ""
			switch {
			case strings.HasSuffix(name, "/"):
				h.Typeflag = tar.TypeDir
			case strings.HasSuffix(name, ">"):
				h.Name, h.Typeflag, h.Linkname = strings.TrimSuffix(name, ">"), tar.TypeSymlink, "usr/lib"
			default:
				data = strings.Repeat(name, i+1)
			}
			h.Size = int64(len(data))
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		blobs = append(blobs, b.Bytes())
		if _, err := archive.Apply(t.Context(), dir, &b); err != nil {
			t.Fatal(err)
		}
	}
	damaged := func() (found []string) {
		tree := unpacked.NewTree(dir)
		for _, blob := range slices.Backward(blobs) {
			for range 2 { // a layer may be read again
				names, err := tree.Damaged(bytes.NewReader(blob))
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, names...)
			}
			tree.Descend()
		}
		return found
	}
	if found := damaged(); len(found) > 0 {
		t.Errorf("got %q, want nothing", found)
	}
	for _, name := range []string{"etc/low", "etc/both", "usr/lib/x", "old/d"} {
		if err := os.Truncate(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"etc/both", "old/d", "lib/x", "etc/both", "old/d", "lib/x", "etc/low", "etc/low"}
	if found := damaged(); !slices.Equal(found, want) {
		t.Errorf("got %q, want %q", found, want)
	}
}
