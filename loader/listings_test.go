// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/loader"
)

// TestNextStartReadsLittle starts again with a compressed bundle that did not change (P8): what is in it is known, and it is not
// decompressed once more.
func TestNextStartReadsLittle(t *testing.T) {
	const size = 8 << 20
	folder := bundles(t)
	l, _ := newLoader(t, folder, func(any) error { return nil })
	entries := append(image.OCI([]image.Named{bare(t, l, 1).Name("quay.io/a:1")}), image.Entry{Name: "more", Data: image.Random("more", 1, size).Data})
	image.WriteFile(t, filepath.Join(folder, "a.tgz"), image.Gzip(image.Tar(entries)))
	for start, most := range []int{2 * size, size / 4} {
		before := readBytes(t)
		if err := loader.New(l.Options, l.Node).Load(t.Context()); err != nil {
			t.Error(err)
		}
		if got := readBytes(t) - before; got > most || start == 0 && got < size {
			t.Errorf("start %d: got %d bytes read of a bundle of %d, want %d at most", start, got, size, most)
		}
	}
}

// readBytes is how much this process has read so far (proc_pid_io(5)).
func readBytes(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(regexp.MustCompile(`(?m)^rchar: (\d+)$`).FindSubmatch(text)[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
