// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/image"
)

func TestCompare(t *testing.T) {
	img := image.New(image.Config{Layers: []image.Layer{
		image.NewLayer(image.File{Path: "d/a", Data: []byte("old")}),
		image.NewLayer(image.File{Path: "d/a", Data: []byte("new")}),
	}})
	for _, tc := range []struct {
		name   string
		change func(dir string) error
		want   string // in the error; "" for no error
	}{
		{"same", func(string) error { return nil }, ""},
		{"other bytes", func(dir string) error { return os.WriteFile(filepath.Join(dir, "d/a"), []byte("xxx"), 0o644) }, "they differ"},
		{"empty", func(dir string) error { return os.Truncate(filepath.Join(dir, "d/a"), 0) }, "got 0 bytes, want 3"},
		{"missing", func(dir string) error { return os.Remove(filepath.Join(dir, "d/a")) }, "no such file"},
		{"mode", func(dir string) error { return os.Chmod(filepath.Join(dir, "d/a"), 0o600) }, "got mode"},
		{"another", func(dir string) error { return os.WriteFile(filepath.Join(dir, "b"), nil, 0o644) }, "b: not in the image"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "d/a"), []byte("new"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := tc.change(dir); err != nil {
				t.Fatal(err)
			}
			got := img.Compare(dir)
			if (got == nil) != (tc.want == "") || got != nil && !strings.Contains(got.Error(), tc.want) {
				t.Errorf("got %v, want %q", got, tc.want)
			}
		})
	}
}

func TestMultiSharesNothing(t *testing.T) {
	img := image.Multi(1)
	a, b := img.For("linux/amd64"), img.For("linux/arm64")
	if a == nil || b == nil || img.For("linux/s390x") != nil {
		t.Fatalf("got %v %v, want one image each for amd64 and arm64", a, b)
	}
	if a.Layers[0].Digest == b.Layers[0].Digest || a.ConfigDigest == b.ConfigDigest {
		t.Error("got the same layer or config for both platforms, want distinct content")
	}
}
