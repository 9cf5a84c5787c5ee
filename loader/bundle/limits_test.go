// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-edge/berth/loader/bundle"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// limit is what reading a bundle may take of memory, whatever is in it.
const limit = 64 << 20

// peak returns by how much the heap grew at most while f ran.
func peak(tb testing.TB, f func()) uint64 {
	tb.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	heap := func() uint64 { // as in runtime.MemStats, which stops the world each time
		now := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(now)
		return now[0].Value.Uint64()
	}
	before := heap()
	var highest atomic.Uint64
	look := func() { highest.Store(max(highest.Load(), heap())) }
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			look()
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	f()
	close(done)
	<-stopped
	look()
	return max(highest.Load(), before) - before
}

// bomb is an archive of one entry of a gigabyte of zeros, compressed in pieces by compress.
func bomb(tb testing.TB, compress func(testing.TB, []byte) []byte) []byte {
	tb.Helper()
	const piece = 16 << 20
	out := compress(tb, rawHeader("bomb", '0', 1<<30))
	zeros := compress(tb, make([]byte, piece))
	out = append(out, bytes.Repeat(zeros, (1<<30)/piece)...)
	return append(out, compress(tb, make([]byte, 1024))...)
}

// best compresses as well as gzip can.
func best(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := z.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// TestE44Bomb is about a gigabyte of zeros in a megabyte: it is refused before most of it is decompressed.
func TestE44Bomb(t *testing.T) {
	for name, compress := range map[string]func(testing.TB, []byte) []byte{"gzip": best, "zstd": zstded} {
		t.Run(name, func(t *testing.T) {
			data := bomb(t, compress)
			if len(data) > 1100<<10 {
				t.Fatalf("got a bomb of %d bytes, want about a megabyte", len(data))
			}
			path := write(t, data)
			start := time.Now()
			if got := peak(t, func() {
				refused(t, path, fmt.Sprintf(`entry "bomb": expands to more than 1000 times its %s size`, name))
			}); got > limit {
				t.Errorf("got %d bytes of memory, want at most %d", got, limit)
			}
			if took := time.Since(start); took > 5*time.Second { // about a tenth of a second without -race
				t.Errorf("got it refused after %v", took)
			}
		})
	}
	t.Run("sparse", func(t *testing.T) {
		path := write(t, append(rawHeader("bomb", '0', 1<<32), make([]byte, 512)...))
		refused(t, path, `entry "bomb": file is 1024 bytes, needs at least 4294968832`)
	})
	t.Run("well compressed", func(t *testing.T) { // but not beyond what images are
		image := newSource(t, "amd64", []layer{newLayer(t, 1, 1<<20)})
		const piece, pieces = 4 << 20, 15 // one is compressed, and repeated
		data := best(t, append(rawHeader("zeros", '0', piece*pieces), make([]byte, piece)...))
		data = append(data, bytes.Repeat(best(t, make([]byte, piece)), pieces-1)...)
		open(t, write(t, append(data, best(t, pack(t, podman([]source{image})...))...)), nil)
	})
}

// TestREL12Memory opens bundles that are small, or no larger than they may be, and would be large in memory.
func TestREL12Memory(t *testing.T) {
	fill := func(before, element, after string) string {
		return before + strings.Repeat(element+",", (20<<20-len(before)-len(after)-len(element))/(len(element)+1)) + element + after
	}
	image := newSource(t, "amd64", []layer{newLayer(t, 1, 1)})
	manifest := ociManifest(image)
	desc := fmt.Sprintf(`"mediaType":%q,"digest":%q,"size":%d`, ocispec.MediaTypeImageManifest, digest.FromBytes(manifest), len(manifest))
	var names []member
	for i := range 5000 {
		names = append(names, text(fmt.Sprintf("%04000d", i), ""))
	}
	filler := strings.Repeat(string(incompressible(16<<10)), 1<<20/(16<<10)) // which compresses fast, and not too well
	var kept []member
	for i := range limit>>20 + 16 {
		kept = append(kept, text(fmt.Sprintf("%d.json", i), "{"+filler+"}"))
	}
	var dirs []member
	for i := range 100_001 {
		dirs = append(dirs, member{name: fmt.Sprintf("%d/", i), typeflag: tar.TypeDir})
	}
	for _, test := range []struct {
		name    string
		members []member
		want    string
	}{
		{"images", []member{text("manifest.json", fill("[", "{}", "]"))}, "more than 10000 images"},
		{"layers", []member{text("manifest.json", fill(`[{"Layers":[`, `""`, "]}]"))}, "too many layers (max 500)"},
		{"diffIDs", []member{text("manifest.json", `[{"Config":"c"}]`), text("c", fill(`{"rootfs":{"diff_ids":[`, `""`, "]}}"))}, "too many layers (max 500)"},
		{"manifests", []member{ociVersion, text("index.json", fill(`{"manifests":[`, `{}`, "]}"))}, "too many manifests (max 10000)"},
		{"annotations", []member{ociVersion, text("index.json", fill(`{"manifests":[{`+desc+`,"annotations":{`, `"a":""`, "}}]}"))}, "is not in the bundle"},
		{"features", []member{ociVersion, text("index.json", fill(`{"manifests":[{`+desc+`,"platform":{"os.features":[`, `""`, "]}}]}"))}, "too many features (max 32)"},
		{"names", names, "the names of its entries come to more than 16 MiB"},
		{"entries", dirs, "more than 100000 entries"},
		{"JSON that is not needed", append(kept, podman([]source{image})...), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			raw := pack(t, test.members...)
			for _, packing := range packings[:2] {
				if packing.name == "gzip" && test.name != "diffIDs" && !strings.HasPrefix(test.name, "JSON") {
					continue // what is kept of a compressed bundle is the same in all others, and packing takes long
				}
				path := write(t, packing.pack(t, raw))
				var b *bundle.Bundle
				var err error
				got := peak(t, func() { b, err = bundle.Open(t.Context(), path, nil) })
				if got > limit {
					t.Errorf("%s: got %d MiB of memory, want at most %d", packing.name, got>>20, limit>>20)
				}
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: got error %v, want one with %q", packing.name, err, test.want)
				}
				if err == nil {
					b.Close()
				}
			}
		})
	}
}

// TestManifestsAreBounded is about a small manifest.json whose manifests would be large.
func TestManifestsAreBounded(t *testing.T) {
	var config ocispec.Image
	l := newLayer(t, 1, 1)
	for range 500 {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.raw))
	}
	var members []member
	var list []string
	for i := range 400 {
		config.Author = fmt.Sprint(i)
		members = append(members, asJSON(fmt.Sprint(i), config))
		list = append(list, fmt.Sprintf(`{"Config":"%d","Layers":["l"%s]}`, i, strings.Repeat(`,"l"`, 499)))
	}
	members = append(members, member{name: "l", data: l.raw}, text("manifest.json", "["+strings.Join(list, ",")+"]"))
	refused(t, write(t, pack(t, members...)), "manifests come to more than 16 MiB")
}

// TestPasses is about a compressed bundle whose manifests and configs do not fit into memory together: it is listed in
// several passes, up to a point.
func TestPasses(t *testing.T) {
	bundleOf := func(n int) string {
		var members []member
		var list []string
		for i := range n {
			config := fmt.Sprintf(`{"author":"%d"%s}`, i, strings.Repeat(" ", 3<<20))
			members = append(members, text(fmt.Sprint(i), config))
			list = append(list, fmt.Sprintf(`{"Config":"%d","RepoTags":["a:%d"]}`, i, i))
		}
		return write(t, gzipped(t, append(pack(t, append(members, text("manifest.json", "["+strings.Join(list, ",")+"]"))...), incompressible(1<<20)...)))
	}
	b := open(t, bundleOf(3), nil)
	for _, image := range b.Images() {
		if got := fetch(t, b, image.Target); digest.FromBytes(got) != image.Target.Digest {
			t.Errorf("got %s for %s", got, image.Target.Digest)
		}
	}
	path := bundleOf(17)
	refused(t, path, "has more than 24 MiB of manifests and configs; decompress it")
	if b, err := bundle.Open(t.Context(), path, nil); err == nil {
		b.Close()
		t.Error("got some of its images, want the bundle refused")
	}
}

// incompressible keeps the ratio of an archive of blanks down, behind its end.
func incompressible(n int) []byte {
	var out bytes.Buffer
	for i := 0; out.Len() < n; i++ {
		dgst := digest.FromString(fmt.Sprint(i))
		io.WriteString(&out, dgst.Encoded())
	}
	return out.Bytes()[:n]
}
