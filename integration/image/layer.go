// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package image makes images for tests, pushes them to a registry and knows what must come out of them: the digest,
// and each file of the root file system byte for byte.
//
//	img := image.New(image.Config{Platform: "linux/amd64", Layers: []image.Layer{image.NewLayer(image.Random("data", 1, 1<<20))}})
//	img.Push(t, reg, "library/nginx:1.29")
//	...
//	if err := img.Compare(rootfs); err != nil { … }
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/integration/binaries"
)

// File is one entry of a layer. A mode of 0 means 0644, or 0755 for a directory. One named ".wh.NAME" removes NAME of
// the layers below, and ".wh..wh..opq" everything of its directory.
type File struct {
	Path   string            // relative to the root, without a leading slash
	Mode   fs.FileMode       // type (none, [fs.ModeDir] or [fs.ModeSymlink]) and permissions
	Data   []byte            // the target of a symbolic link
	Xattrs map[string]string // extended attributes by their full name, such as "user.note"
	Link   string            // path of an earlier file of the layer: a hard link, which has nothing else of its own
}

// Random returns a file of the given size whose content is drawn from seed: it cannot be compressed, and is the same
// in every run.
func Random(path string, seed uint64, size int) File {
	data := make([]byte, size)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	_, _ = rand.NewChaCha8(key).Read(data)
	return File{Path: path, Data: data}
}

// Program returns the static program that [Pause] and [Hello] run, as the file "probe".
func Program(tb testing.TB) File {
	tb.Helper()
	data, err := os.ReadFile(binaries.Path(tb, binaries.Probe))
	if err != nil {
		tb.Fatal(err)
	}
	return File{Path: "probe", Mode: 0o755, Data: data}
}

// Layer is a tar.gz of files, held in memory.
type Layer struct {
	Files  []File
	DiffID digest.Digest // of the tar
	Digest digest.Digest // of the tar.gz
	Blob   []byte
}

// NewLayer makes a layer of files, in their order. Directories that are not given are added with mode 0755.
func NewLayer(files ...File) Layer {
	var blob bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&blob, gzip.BestSpeed)
	diff := digest.Canonical.Digester()
	out := tar.NewWriter(io.MultiWriter(zip, diff.Hash()))
	var all []File
	seen := map[string]bool{".": true}
	var add func(f File)
	add = func(f File) {
		f.Path = path.Clean(f.Path)
		if dir := path.Dir(f.Path); !seen[dir] {
			add(File{Path: dir, Mode: fs.ModeDir | 0o755})
		}
		seen[f.Path] = true
		all = append(all, f.write(out))
	}
	for _, f := range files {
		if f.Link != "" {
			target := all[slices.IndexFunc(all, func(t File) bool { return t.Path == f.Link })]
			target.Path, target.Link = f.Path, f.Link
			f = target
		}
		add(f)
	}
	must(out.Close())
	must(zip.Close())
	return Layer{Files: all, DiffID: diff.Digest(), Digest: digest.FromBytes(blob.Bytes()), Blob: blob.Bytes()}
}

// write adds f to the archive and returns it with its mode made explicit.
func (f File) write(out *tar.Writer) File {
	hdr := &tar.Header{Name: f.Path, ModTime: time.Unix(1700000000, 0), Format: tar.FormatPAX, PAXRecords: map[string]string{}}
	for name, value := range f.Xattrs {
		hdr.PAXRecords["SCHILY.xattr."+name] = value
	}
	perm := f.Mode.Perm()
	switch f.Mode.Type() {
	case fs.ModeDir:
		hdr.Typeflag, hdr.Name = tar.TypeDir, f.Path+"/"
		if perm == 0 {
			perm = 0o755
		}
	case fs.ModeSymlink:
		hdr.Typeflag, hdr.Linkname, perm = tar.TypeSymlink, string(f.Data), 0o777
	default:
		hdr.Typeflag, hdr.Size = tar.TypeReg, int64(len(f.Data))
		if perm == 0 {
			perm = 0o644
		}
	}
	if f.Link != "" {
		hdr.Typeflag, hdr.Size, hdr.Linkname = tar.TypeLink, 0, f.Link
	}
	hdr.Mode = int64(perm)
	must(out.WriteHeader(hdr))
	if hdr.Typeflag == tar.TypeReg {
		_, err := out.Write(f.Data)
		must(err)
	}
	f.Mode = f.Mode.Type() | perm
	return f
}

// must is for what cannot fail: encoding our own values, and writing to memory.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
