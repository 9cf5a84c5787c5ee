// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/loader/bundle"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// refused opens the bundle at path, which must be an error, or have an image with a problem, that names the path and says all of
// want.
func refused(tb testing.TB, path string, want ...string) error {
	tb.Helper()
	b, err := bundle.Open(tb.Context(), path, nil)
	if err == nil {
		defer b.Close()
		err = errors.Join(b.Problems()...)
	}
	if err == nil {
		tb.Fatalf("got images %v, want an error with %q", b.Images(), want)
	}
	for _, want := range append(want, "open bundle "+path+": ") {
		if !strings.Contains(err.Error(), want) {
			tb.Errorf("got error %q, want one with %q", err, want)
		}
	}
	if len(err.Error()) > 2000 {
		tb.Errorf("got an error of %d bytes, want one that can be read", len(err.Error()))
	}
	return err
}

// TestNoArchive is about files that are no archive. The ids are those of RELIABILITY.md, 3.E.
func TestNoArchive(t *testing.T) {
	whole := pack(t, legacy(twoImages(t))...)
	wrong := func(data []byte, at int) []byte {
		data = bytes.Clone(data)
		data[(at+len(data))%len(data)] ^= 0xff
		return data
	}
	with := func(data []byte, more string) []byte { return append(bytes.Clone(data), more...) }
	big := member{name: "l0.tar", data: make([]byte, 10240)}
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"E1 empty", nil, "empty file"},
		{"E2 text", []byte("hello world"), `not a tar, gzip or zstd file (starts with "hello wo")`},
		{"E2 long text", bytes.Repeat([]byte("hello world"), 100), `not a tar, gzip or zstd file (starts with "hello wo")`},
		{"E3 zeros", make([]byte, 10240), "contains no entries"},
		{"E3 zeros in gzip", gzipped(t, make([]byte, 10240)), "contains no entries"},
		{"E3 nothing in gzip", gzipped(t, nil), "contains no entries"},
		{"E3 directories only", pack(t, member{name: "d/", typeflag: tar.TypeDir}), "contains no entries"},
		{"E4 truncated tar", pack(t, text("a", "a"), big)[:2600], `entry "l0.tar": file is 2600 bytes, needs at least 12800; copy incomplete?`},
		{"E4 truncated in a header", whole[:700], "file is 700 bytes and ends within the entry after"},
		{"E4 truncated between entries", pack(t, text("a", "a"), text("b", "b"))[:1024], "the file ends without the end mark of a tar archive; copy incomplete?"},
		{"E4 damaged header", append(whole[:1536:1536], bytes.Repeat([]byte("x"), 1024)...), "invalid tar header before byte"},
		{"E4 truncated tar in gzip", gzipped(t, pack(t, text("a", "a"), big)[:2600]), `entry "l0.tar": the archive in the gzip file ends within it, at byte 2600`},
		{"E5 truncated gzip", gzipped(t, whole)[:5000], "gzip stream ends early at byte 5000"},
		{"E5 truncated gzip header", gzipped(t, whole)[:5], "gzip stream ends early at byte 5"},
		{"E5 truncated gzip trailer", cut(gzipped(t, whole), 3), "gzip stream ends early at byte"},
		{"E5 truncated zstd", zstded(t, whole)[:5000], "zstd stream ends early at byte 5000"},
		{"E5 truncated zstd trailer", cut(zstded(t, whole), 2), "zstd stream ends early at byte"},
		{"E6 gzip checksum", wrong(gzipped(t, whole), -6), "gzip checksum mismatch"},
		{"E6 gzip length", wrong(gzipped(t, whole), -1), "gzip checksum mismatch"},
		{"E6 zstd checksum", wrong(zstded(t, whole), -1), "zstd checksum mismatch"},
		{"REL-14 after gzip", with(gzipped(t, whole), "garbage that is longer than a header"), "other data follows the gzip stream"},
		{"REL-14 one byte after gzip", with(gzipped(t, whole), "\x00"), "other data follows the gzip stream"},
		{"REL-14 after zstd", with(zstded(t, whole), "garbage"), "other data follows the zstd stream"},
		{"E9 gzip in gzip", gzipped(t, gzipped(t, whole)), "what the gzip file holds is not a tar archive"},
		{"REL-12 zstd window", window(t, 256<<20), "zstd window is larger than 128 MiB; compress with --long=27 or less"},
		{"E10 xz", []byte("\xfd7zXZ\x00\x00\x04"), "xz is not supported; use gzip or zstd"},
		{"E10 bzip2", []byte("BZh91AY&SY"), "bzip2 is not supported; use gzip or zstd"},
		{"E10 lz4", []byte("\x04\x22\x4d\x18d@"), "lz4 is not supported; use gzip or zstd"},
		{"E10 legacy lz4", []byte("\x02\x21\x4c\x18d@"), "lz4 is not supported; use gzip or zstd"},
		{"E10 lzip", []byte("LZIP\x01\x0c"), "lzip is not supported; use gzip or zstd"},
		{"E10 compress", []byte("\x1f\x9d\x90"), "compress is not supported; use gzip or zstd"},
		{"E10 rar", []byte("Rar!\x1a\x07"), "rar is not supported; use gzip or zstd"},
		{"E10 empty zip", []byte("PK\x05\x06\x00\x00"), "zip is not supported; use gzip or zstd"},
		{"E10 zip", []byte("PK\x03\x04\x14\x00"), "zip is not supported; use gzip or zstd"},
		{"E10 7z", []byte("7z\xbc\xaf\x27\x1c\x00\x04"), "7z is not supported; use gzip or zstd"},
	} {
		t.Run(test.name, func(t *testing.T) { refused(t, write(t, test.data), test.want) })
	}
}

func cut(data []byte, n int) []byte { return data[:len(data)-n] }

// window is a zstd frame with a window of that size.
func window(tb testing.TB, size int) []byte {
	tb.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithWindowSize(size))
	if err != nil {
		tb.Fatal(err)
	}
	// Longer than what a writer collects before it decides on a single segment, whose window is its size.
	if _, err := io.CopyN(z, zeros{}, 9<<20); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestDockerRefused is about docker-save archives that are wrong in one place.
func TestDockerRefused(t *testing.T) {
	image := twoImages(t)[0]
	l := image.layers[0]
	config := member{name: "c.json", data: image.config}
	layers := []member{{name: "l0.tar", data: image.layers[0].raw}, {name: "l1.tar", data: image.layers[1].raw}}
	const manifest = `[{"Config":"c.json","RepoTags":["example/a:1"],"Layers":["l0.tar","l1.tar"]}]`
	all := func(manifest string, more ...member) []member {
		return append(append([]member{text("manifest.json", manifest), config}, layers...), more...)
	}
	one := newSource(t, "amd64", image.layers[:1])
	single := func(more ...member) []member {
		return append([]member{text("manifest.json", strings.Replace(manifest, `,"l1.tar"`, "", 1)), {name: "c.json", data: one.config}}, more...)
	}
	named := "sha256:" + strings.Repeat("0", 64)
	for _, test := range []struct {
		name    string
		members []member
		want    string
	}{
		{"E12 no manifest", []member{config}, "neither docker-archive (manifest.json) nor OCI layout (oci-layout)"},
		{"E12 a directory was packed", []member{text("x/manifest.json", manifest)}, `there is "x/manifest.json": pack the content of that directory`},
		{"E12 a layout's directory was packed", []member{text("x/oci-layout", "{}")}, `there is "x/oci-layout": pack the content of that directory`},
		{"E13 no layer", []member{text("manifest.json", manifest), config, layers[0]}, `image example/a:1: layer "l1.tar" not found`},
		{"E13 device as layer", single(member{name: "l0.tar", typeflag: tar.TypeChar}), `image example/a:1: layer "l0.tar" is no regular file (tar type '3')`},
		{"E14 no config", []member{text("manifest.json", manifest), layers[0], layers[1]}, `image example/a:1: image config "c.json" not found`},
		{"E15 broken manifest", all(`[{"Config":`), "manifest.json: invalid JSON at byte 11: unexpected end of JSON input"},
		{"E15 broken config", []member{text("manifest.json", manifest), text("c.json", "{,"), layers[0], layers[1]}, "image example/a:1: c.json: invalid JSON at byte 2"},
		{"E15 empty manifest", all(""), "manifest.json is empty"},
		{"E15 wrong type", all(`[{"Config":1}]`), "manifest.json: json: cannot unmarshal number"},
		{"E16 object", all(`{"Config":"c.json"}`), "manifest.json must be a list"},
		{"E16 layers are no list", all(`[{"Config":"c.json","Layers":{}}]`), "layers must be a list"},
		{"E17 large manifest", all(manifest + strings.Repeat(" ", 20<<20)), "manifest.json is larger than 20 MiB"},
		{"E17 large config", []member{text("manifest.json", manifest), text("c.json", strings.Repeat(" ", 20<<20+1))}, "c.json is larger than 20 MiB"},
		{"E18 tag", all(strings.Replace(manifest, "example/a:1", "UPPER/Case:bad tag", 1)), `normalize image ref "UPPER/Case:bad tag": invalid reference format`},
		{"SEC-31 tag with a digest", all(strings.Replace(manifest, "example/a:1", "example/a@"+named, 1)), "image docker.io/example/a@" + named + ": under this name the bundle has sha256:"},
		{"E19 no images", all(`[]`), "manifest.json lists no image"},
		{"E19 null", all(`null`), "manifest.json lists no image"},
		{"E24 diffIDs", []member{text("manifest.json", manifest), {name: "c.json", data: one.config}, layers[0], layers[1]}, "image example/a:1: number of layers and diffIDs don't match: 2 != 1"},
		{"E24 fewer layers", []member{text("manifest.json", strings.Replace(manifest, `,"l1.tar"`, "", 1)), config, layers[0]}, "image example/a:1: number of layers and diffIDs don't match: 1 != 2"},
		{"E34 diffID", []member{text("manifest.json", strings.Replace(manifest, `,"l1.tar"`, "", 1)), text("c.json", `{"rootfs":{"diff_ids":["sha256:../../etc/passwd"]}}`), layers[0]}, `invalid diffID "sha256:../../etc/passwd"`},
		{"E36 layers", all(`[{"Config":"c.json","Layers":[` + strings.Repeat(`"l0.tar",`, 10_000) + `"l0.tar"]}]`), "too many layers (max 500)"},
		{"E35 images", all(`[` + strings.Repeat(`{"Config":"c.json","RepoTags":["a:1"],"Layers":["l0.tar","l1.tar"]},`, 1) + `{"Config":"c.json","Layers":["l0.tar","l1.tar"],"RepoTags":[` + tags(10_000) + `]}]`), "more than 10000 images"},
		{"E37 two entries of one name", all(manifest, text("./c.json", "{}")), `two entries are named "c.json"`},
		{"E37 two entries of one name and content", all(manifest, layers[0]), `two entries are named "l0.tar"`},
		{"E37 two configurations of one name", []member{text("manifest.json", manifest), text(named, "{}"), text(named, "[]")}, `two entries are named "` + named + `", and differ`},
		{"E37 two links of the name of a configuration", []member{{name: named, typeflag: tar.TypeSymlink, link: "x"}, {name: named, typeflag: tar.TypeSymlink, link: "y"}}, `two entries are named "` + named + `", and differ`},
		{"E37 a link of the name of a configuration", []member{text(named, "{}"), {name: named, typeflag: tar.TypeSymlink, link: "x"}}, `two entries are named "` + named + `", and differ`},
		{"E39 hard link", single(member{name: "x", data: l.raw}, member{name: "l0.tar", typeflag: tar.TypeLink, link: "x"}), `layer "l0.tar" is a hard link to "x", which is not supported`},
		{"E40 symlink to nothing", all(manifest, member{name: "x/layer.tar", typeflag: tar.TypeSymlink, link: "../y/layer.tar"}), `no target for symlink layer from "x/layer.tar" to "y/layer.tar"`},
		{"E40 symlink in a circle", all(manifest, member{name: "x", typeflag: tar.TypeSymlink, link: "x"}), `symlink layer "x"`},
		{"symlink out", all(manifest, member{name: "x/layer.tar", typeflag: tar.TypeSymlink, link: "../../etc/passwd"}), `symlink layer "x/layer.tar" points out of the archive, to "../../etc/passwd"`},
		{"absolute symlink", single(member{name: "x", data: l.raw}, member{name: "l0.tar", typeflag: tar.TypeSymlink, link: "/x"}), `symlink layer "l0.tar" points out of the archive, to "/x"`},
		{"manifest.json is a link", []member{text("x", manifest), {name: "manifest.json", typeflag: tar.TypeSymlink, link: "x"}}, "manifest.json is a symbolic link"},
		{"two layers of one diffID", append(all(strings.Replace(manifest, "c.json", "d.json", 1)), text("d.json", fmt.Sprintf(`{"rootfs":{"diff_ids":[%[1]q,%[1]q]}}`, digest.FromBytes(l.raw)))), " elsewhere in the bundle"},
		{"layer of two diffIDs", append(all(strings.Replace(manifest, "]}]", `]},{"Config":"d.json","Layers":["l1.tar"]}]`, 1)), member{name: "d.json", data: one.config}), `"l1.tar" is sha256:`},
	} {
		t.Run(test.name, func(t *testing.T) {
			raw := pack(t, test.members...)
			refused(t, write(t, raw), test.want)
			refused(t, write(t, gzipped(t, raw)), test.want)
		})
	}
	// The members that the cases are made of are right.
	for _, members := range [][]member{all(manifest), single(layers[0])} {
		open(t, write(t, pack(t, members...)), nil)
	}
}

func tags(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`"b:%d"`, i))
	}
	return strings.Join(list, ",")
}

// TestSparse is about entries whose content is not in the archive as it is.
func TestSparse(t *testing.T) {
	config := newSource(t, "amd64", []layer{newLayer(t, 1, 1)}).config
	before := cut(pack(t, text("manifest.json", `[{"Config":"c","Layers":["l"]}]`), member{name: "c", data: config}), 1024)
	pax := record("GNU.sparse.major=1") + record("GNU.sparse.minor=0") + record("GNU.sparse.realsize=99999") + record("GNU.sparse.name=l")
	data := append(rawHeader("PaxHeaders/l", 'x', int64(len(pax))), pad(pax)...)
	data = append(data, append(rawHeader("GNUSparseFile.0/l", '0', 512), pad("0\n")...)...)
	old := rawHeader("l", 'S', 0)
	copy(old[257:], "ustar  \x00")
	copy(old[483:], "00000000123\x00") // its size when it is not sparse
	sum(old)
	for name, sparse := range map[string][]byte{"pax": data, "old gnu": old} {
		t.Run(name, func(t *testing.T) {
			raw := append(append(bytes.Clone(before), sparse...), make([]byte, 1024)...)
			refused(t, write(t, raw), `layer "l" is a sparse entry, which is not supported; pack it without --sparse`)
			refused(t, write(t, gzipped(t, raw)), `layer "l" is a sparse entry, which is not supported; pack it without --sparse`)
		})
	}
}

// record is one record of a PAX header, of less than 97 bytes.
func record(s string) string { return fmt.Sprintf("%d %s\n", len(s)+4, s) }

// rawHeader is a header that archive/tar would not write.
func rawHeader(name string, typeflag byte, size int64) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x0000000000000\x00", size))
	h[156] = typeflag
	copy(h[257:], "ustar\x0000")
	sum(h)
	return h
}

func sum(h []byte) {
	copy(h[148:], "        ")
	n := 0
	for _, b := range h {
		n += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", n))
}

func pad(s string) []byte { return append([]byte(s), make([]byte, (512-len(s)%512)%512)...) }

// TestE37Names is about names that would be paths elsewhere: here they are keys.
func TestE37Names(t *testing.T) {
	image := twoImages(t)[0]
	names := []string{"/etc/passwd", "../../../../tmp/PWNED", "C:\\x\\y", "\xff\xfe", strings.Repeat("n", 4000)}
	var members []member
	for _, name := range names {
		members = append(members, text(name, "x"))
	}
	members = append(members, podman([]source{image})...)
	dir := t.TempDir()
	raw := pack(t, members...)
	b := open(t, write(t, raw), nil)
	conforms(t, b, importStock(t, raw))
	if left, _ := filepath.Glob(filepath.Join(dir, "..", "..", "PWNED")); left != nil {
		t.Errorf("got %v", left)
	}
	refused(t, write(t, pack(t, append(members, text(strings.Repeat("n", 4097), "x"))...)), "its name has 4097 bytes, more than 4096")
}

// TestE45Annotations is about what a bundle says of an image beside its name: none of that is passed on.
func TestE45Annotations(t *testing.T) {
	for _, image := range open(t, write(t, pack(t, oci(twoImages(t))...)), nil).Images() {
		if image.Target.Annotations != nil || image.Target.URLs != nil || image.Target.Data != nil {
			t.Errorf("got target %+v, want one without annotations, URLs and data", image.Target)
		}
	}
}

// TestFollowed is about two archives that were joined with cat: what is in the first is loaded, and that there is a second is said.
func TestFollowed(t *testing.T) {
	images := twoImages(t)
	first, second := pack(t, podman(images[:1])...), pack(t, podman(images[1:])...)
	for _, packing := range packings[:3] {
		path := write(t, append(packing.pack(t, append(first, make([]byte, 9*512)...)), packing.pack(t, second)...))
		var known *bundle.Listing
		for range 2 {
			b := open(t, path, known)
			if got := b.Images(); len(got) != len(images[0].tags) {
				t.Errorf("%s: got images %v, want those of the first", packing.name, got)
			}
			if err := errors.Join(b.Problems()...); err == nil || err.Error() != "open bundle "+path+": another archive follows the first one, and is not read; save all images into one" {
				t.Errorf("%s: got problem %v, want one of the second archive", packing.name, err)
			}
			known = b.Listing()
		}
		for name, padding := range map[string][]byte{"zeros": make([]byte, 40*512), "what is no archive": bytes.Repeat([]byte("x"), 1024)} {
			path = write(t, packing.pack(t, append(bytes.Clone(first), padding...)))
			if got := open(t, path, nil).Problems(); len(got) != 0 {
				t.Errorf("%s: got problems %v of padding by %s", packing.name, got, name)
			}
		}
	}
}

// TestOneImageRefused is about bundles of which one image cannot be used: the others are listed, and that one is named, in
// whatever order they are, and also with a listing.
func TestOneImageRefused(t *testing.T) {
	good := newSource(t, "amd64", []layer{newLayer(t, 1, 1)}, "example.com/good:1")
	bad := newSource(t, "amd64", []layer{newLayer(t, 2, 1)}, "example.com/bad:1")
	remove := func([]byte) []byte { return nil }
	spoil := func(data []byte) []byte { return append([]byte("["), data[1:]...) }
	for _, test := range []struct {
		name    string
		members func([]source) []member
		spoiled string // the end of the name of an entry
		how     func([]byte) []byte
		want    string
	}{
		{"no config", oci, hexOf(bad.config), remove, "image example.com/bad:1: "},
		{"no manifest", oci, hexOf(ociManifest(bad)), remove, "image example.com/bad:1: "},
		{"damaged manifest", oci, hexOf(ociManifest(bad)), spoil, "does not match its name"},
		{"empty manifest", oci, hexOf(ociManifest(bad)), func([]byte) []byte { return []byte{} }, "bytes in the bundle, want"},
		{"no config of docker-save", podman, hexOf(bad.config) + ".json", remove, `image example.com/bad:1: image config "`},
		{"damaged config of docker-save", podman, hexOf(bad.config) + ".json", spoil, "image example.com/bad:1: "},
		{"no layer of docker-save", podman, hexOf(bad.layers[0].raw) + ".tar", remove, "image example.com/bad:1: layer "},
	} {
		for _, images := range [][]source{{good, bad}, {bad, good}} {
			var members []member
			for _, m := range test.members(images) {
				if strings.HasSuffix(m.name, test.spoiled) {
					m.data = test.how(m.data)
				}
				if m.data != nil {
					members = append(members, m)
				}
			}
			paths := map[string]string{"plain": write(t, pack(t, members...)), "gzip": write(t, gzipped(t, pack(t, members...)))}
			if members[0].name == ociVersion.name {
				paths["layout"] = writeDir(t, members...)
			}
			for form, path := range paths {
				t.Run(fmt.Sprintf("%s, %s first, %s", test.name, images[0].tags[0], form), func(t *testing.T) {
					var known *bundle.Listing
					for range 2 {
						b := open(t, path, known)
						if got := b.Images(); len(got) != 1 || got[0].Name != "example.com/good:1" {
							t.Errorf("got images %v, want the good one", got)
						}
						if got := b.Problems(); len(got) != 1 || !strings.HasPrefix(got[0].Error(), "open bundle "+path+": image example.com/bad:1: ") || !strings.Contains(got[0].Error(), test.want) {
							t.Errorf("got problems %v, want one of the bad image with %q", got, test.want)
						}
						if known = b.Listing(); known == nil {
							break
						}
					}
				})
			}
		}
	}
	unnameable := podman([]source{newSource(t, "amd64", nil, "example.com/BAD:1", "example.com/other:1"), good})
	if b := open(t, write(t, pack(t, unnameable...)), nil); len(b.Images()) != 2 || len(b.Problems()) != 1 {
		t.Errorf("a name that does not parse: got images %v and problems %v, want those of two names and one", b.Images(), b.Problems())
	}
	link := member{name: "gone/layer.tar", typeflag: tar.TypeSymlink, link: "../absent/layer.tar"}
	if b := open(t, write(t, pack(t, append(podman([]source{good}), link)...)), nil); len(b.Images()) != 1 || len(b.Problems()) != 1 {
		t.Errorf("a link that leads nowhere: got images %v and problems %v, want one each", b.Images(), b.Problems())
	}
	both := podman([]source{bad, newSource(t, "amd64", nil, "example.com/worse:1")})
	refused(t, write(t, pack(t, both[len(both)-1])), "none of its images can be used; the first of 2 faults: image example.com/bad:1: ")
}
