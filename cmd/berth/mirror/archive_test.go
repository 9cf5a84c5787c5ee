// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

func random(size int64) (ocispec.Descriptor, []byte) {
	text := make([]byte, size)
	_, _ = rand.Read(text)
	return content.NewDescriptorFromBytes("application/octet-stream", text), text
}

// TestArchive writes blobs of sizes around those of a block and of a buffer, several at once, and reads them with another
// implementation.
func TestArchive(t *testing.T) {
	for _, name := range []string{"cluster.tar", "cluster.tar.zst", "CLUSTER.TAR.ZST"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, name)
			layout, err := NewLayout(path)
			if err != nil {
				t.Fatal(err)
			}
			defer layout.Discard()
			if err := layout.Index(ocispec.Index{}); err != nil {
				t.Fatal(err)
			}
			want := map[string][]byte{}
			sent := make(chan error)
			for _, size := range []int64{0, 1, 511, 512, 513, atOnceBytes - tarBlock, atOnceBytes, atOnceBytes + 1, 3*atOnceBytes + 7, smallBlob, smallBlob + 1} {
				desc, text := random(size)
				want["blobs/sha256/"+desc.Digest.Encoded()] = text
				go func() { sent <- layout.Push(t.Context(), desc, bytes.NewReader(text)) }()
			}
			for range want {
				if err := <-sent; err != nil {
					t.Error(err)
				}
			}
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("before the commit: got %v, want no file", err)
			}
			if err := layout.Commit(); err != nil {
				t.Fatal(err)
			}
			got := readTar(t, path)
			for _, file := range []string{"oci-layout", "index.json"} {
				if len(got[file]) == 0 {
					t.Errorf("got no %s", file)
				}
				delete(got, file)
			}
			if len(got) != len(want) {
				t.Errorf("got %d blobs, want %d", len(got), len(want))
			}
			for name, text := range want {
				if !bytes.Equal(got[name], text) {
					t.Errorf("%s: got %d bytes, want the %d that were sent", name, len(got[name]), len(text))
				}
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("got %v, want the bundle alone", left)
			}
		})
	}
}

// readTar returns the files of an archive, and fails the test if anything follows its end.
func readTar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.EqualFold(filepath.Ext(path), ".zst") {
		r, err := zstd.NewReader(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if text, err = r.DecodeAll(text, nil); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(text[max(0, len(text)-2*tarBlock):], make([]byte, 2*tarBlock)) || len(text)%tarBlock != 0 {
		t.Errorf("%s: got %d bytes that do not end in two blocks of zeros", path, len(text))
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestArchiveAtOnce sends a blob while another that began before is not there yet: in a plain archive neither waits.
func TestArchiveAtOnce(t *testing.T) {
	layout, err := NewLayout(filepath.Join(t.TempDir(), "cluster.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer layout.Discard()
	slow, slowText := random(smallBlob + 1)
	quick, quickText := random(smallBlob + 1)
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() { sent <- layout.Push(t.Context(), slow, r) }()
	if _, err := w.Write(slowText[:1]); err != nil {
		t.Fatal(err)
	}
	if err := layout.Push(t.Context(), quick, bytes.NewReader(quickText)); err != nil {
		t.Error(err)
	}
	if _, err := w.Write(slowText[1:]); err != nil {
		t.Error(err)
	}
	w.Close()
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestArchiveBadBlob sends blobs that are not what their descriptors say. What was written goes with the layout.
func TestArchiveBadBlob(t *testing.T) {
	for _, name := range []string{"cluster.tar", "cluster.tar.zst", "CLUSTER.TAR.ZST"} {
		for what, change := range map[string]func([]byte) []byte{
			"another byte": func(b []byte) []byte { b[7] ^= 1; return b },
			"too short":    func(b []byte) []byte { return b[:len(b)-1] },
			"too long":     func(b []byte) []byte { return append(b, 0) },
		} {
			for _, size := range []int64{1000, smallBlob + 1} {
				dir := t.TempDir()
				layout, err := NewLayout(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				desc, text := random(size)
				if err := layout.Push(t.Context(), desc, bytes.NewReader(change(text))); err == nil || !bytes.Contains([]byte(err.Error()), []byte(desc.Digest)) {
					t.Errorf("%s, %s, %d bytes: got %v, want an error that names %s", name, what, size, err, desc.Digest)
				}
				layout.Discard()
				if left, _ := os.ReadDir(dir); len(left) != 0 {
					t.Errorf("%s, %s: got %v left", name, what, left)
				}
			}
		}
	}
}
