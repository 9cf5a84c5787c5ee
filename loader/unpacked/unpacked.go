// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package unpacked tells whether a layer that was unpacked still is what the layer holds, and mends it.
//
// A power cut under a containerd that does not sync leaves committed snapshots whose files are empty, short, or not there
// (containerd#8409). They are found out by comparing with the layer itself, file by file; and since that reads and
// decompresses all of it, by signs that cost little where a layer is known to have been synced: see [Suspicious].
package unpacked

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	confs "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// marker is a file beside the directory that a layer was unpacked to.
const marker = "berth.synced"

// Mark notes that a layer's directory is synced, or will be before its snapshot is committed. It does nothing for a
// directory that is not the overlay snapshotter's.
func Mark(dir string) error {
	if filepath.Base(dir) != "fs" {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(dir), marker), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("mark layer as synced: %w", err)
	}
	return f.Close()
}

// Marked reports whether [Mark] was called for a layer's directory.
func Marked(dir string) bool {
	_, err := os.Lstat(filepath.Join(filepath.Dir(dir), marker))
	return err == nil
}

func directories(mounts []mount.Mount) (dirs []string, err error) {
	if len(mounts) != 1 {
		return nil, fmt.Errorf("snapshotter has no directory for each layer: %w", errdefs.ErrNotImplemented)
	}
	switch m := mounts[0]; m.Type {
	case "bind":
		if filepath.Base(m.Source) == "fs" {
			return []string{m.Source}, nil
		}
	case "overlay":
		for _, option := range m.Options {
			lower, ok := strings.CutPrefix(option, "lowerdir=")
			if !ok {
				continue
			}
			for _, dir := range strings.Split(lower, ":") {
				dirs = append([]string{dir}, dirs...)
			}
			return dirs, nil
		}
	}
	return nil, fmt.Errorf("snapshotter has no directory for each layer: %w", errdefs.ErrNotImplemented)
}

// Suspicious looks for what a power cut leaves, without reading any content: a file that is empty, or that has a size and no
// block on the disk. Some layers have such files by right.
func Suspicious(dir string) (bool, error) {
	errFound := errors.New("found")
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if info.Size() == 0 || ok && stat.Blocks == 0 {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}

// Damaged compares a directory with the layer that was unpacked to it, and returns the paths that are not as the layer has
// them: files of other bytes, links of another target, and what is not there.
func Damaged(dir string, layer io.Reader) ([]string, error) { return NewTree(dir).Damaged(layer) }

// Tree is a directory that layers were unpacked to, one over the other. They are compared with it from the uppermost down.
type Tree struct {
	dir     string
	layer   map[string]byte // the kinds of the entries of the layer that was compared last, by their paths in the tree
	covered map[string]bool // paths that layers above have
	hidden  map[string]bool // paths at and below which no layer below shows
	opaque  map[string]bool // directories in which no layer below shows
}

// NewTree returns the tree at a directory.
func NewTree(dir string) *Tree {
	return &Tree{dir: dir, covered: map[string]bool{}, hidden: map[string]bool{}, opaque: map[string]bool{}}
}

// shows reports whether a path is as the layer has it that is compared, and not as one above it.
func (t *Tree) shows(path string) bool {
	if t.covered[path] || t.hidden[path] {
		return false
	}
	for len(path) > len(t.dir) {
		path = filepath.Dir(path)
		if t.hidden[path] || t.opaque[path] {
			return false
		}
	}
	return true
}

// Descend makes the layer below the one that was compared last the next.
func (t *Tree) Descend() {
	for path, kind := range t.layer {
		dir, base := filepath.Split(path)
		whiteout, isWhiteout := strings.CutPrefix(base, whiteoutPrefix)
		switch {
		case base == opaqueWhiteout:
			t.opaque[filepath.Clean(dir)] = true
		case isWhiteout:
			t.hidden[dir+whiteout] = true
		case kind == tar.TypeDir:
			t.covered[path] = true
		default:
			t.hidden[path] = true
		}
	}
}

// What a layer says of layers below it (image-spec, layer.md).
const (
	whiteoutPrefix = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// Damaged compares the tree with a layer, as [Damaged] does.
func (t *Tree) Damaged(layer io.Reader) ([]string, error) {
	stream, err := compression.DecompressStream(layer)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	t.layer = map[string]byte{}
	damaged := map[string]bool{}
	var order []string
	archive := tar.NewReader(stream)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := within(h.Name)
		parent, err := confs.RootPath(t.dir, filepath.Dir(name))
		if err != nil {
			return nil, err
		}
		path := filepath.Join(parent, filepath.Base(name))
		t.layer[path] = h.Typeflag
		if strings.HasPrefix(filepath.Base(name), whiteoutPrefix) || !t.shows(path) || !t.shows(filepath.Join(t.dir, name)) { // a link above may lead elsewhere
			continue
		}
		if _, seen := damaged[name]; !seen {
			order = append(order, name)
		}
		same, err := isSame(path, h, archive)
		if err != nil {
			return nil, err
		}
		damaged[name] = !same // a later entry of one name is the one that counts
	}
	var found []string
	for _, name := range order {
		if damaged[name] {
			found = append(found, name)
		}
	}
	return found, nil
}

// within is the one form of a path in a layer, which may be written from its root or not.
func within(name string) string { return filepath.Join(".", filepath.Join("/", name)) }

func isSame(path string, h *tar.Header, content io.Reader) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if !info.Mode().IsRegular() || info.Size() != h.Size {
			return false, nil
		}
		return sameContent(path, content)
	case tar.TypeSymlink:
		target, err := os.Readlink(path)
		return err == nil && target == h.Linkname, nil
	case tar.TypeDir:
		return info.IsDir(), nil
	}
	return true, nil // its content is another entry's, or it has none
}

func sameContent(path string, content io.Reader) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var a, b [64 << 10]byte
	for {
		n, err := io.ReadFull(content, a[:])
		if n > 0 {
			m, readErr := io.ReadFull(f, b[:n])
			if errors.Is(readErr, syscall.EIO) {
				return false, nil
			}
			if !bytes.Equal(a[:n], b[:m]) {
				return false, nil
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// Mend unpacks the given paths of a layer again, in their place, and syncs them. A hard link to one of them is made anew.
func Mend(ctx context.Context, dir string, layer io.Reader, damaged []string) error {
	stream, err := compression.DecompressStream(layer)
	if err != nil {
		return err
	}
	defer stream.Close()
	again := map[string]bool{}
	for _, name := range damaged {
		again[name] = true
	}
	_, err = archive.Apply(ctx, dir, stream, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout),
		archive.WithFilter(func(h *tar.Header) (bool, error) {
			name := within(h.Name)
			if h.Typeflag == tar.TypeLink && again[within(h.Linkname)] {
				again[name] = true
			}
			return again[name], nil
		}))
	if err != nil {
		return fmt.Errorf("unpack again: %w", err)
	}
	return Sync(dir)
}

// Sync syncs the file system that a layer was unpacked to, and marks the layer.
func Sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return Mark(dir)
}
