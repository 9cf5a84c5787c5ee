// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/powercut"
	"github.com/berth-edge/berth/integration/registry"
)

// TestBundle carries a cluster to a node that reaches no registry, in a bundle of each kind, and fills a registry from one.
func TestBundle(t *testing.T) {
	p := newProfile(t, 8, registry.Options{})
	dir := t.TempDir()
	for _, name := range []string{"cluster.tar", "cluster.tar.zst", "cluster/"} {
		t.Run(name, func(t *testing.T) {
			p := p
			path := filepath.Join(dir, name) + strings.Repeat("/", strings.Count(name, "/"))
			direct := filepath.Join(t.TempDir(), "berth.toml") // where there is a network: from the registries that references name
			write(t, direct, entry(t, p.public, "")+rule("*", "source"))
			p.public.Log.Reset()
			out, problems, code := berth(t, append([]string{"bundle", "--out", path, "--config", direct}, p.refs...)...)
			if code != 0 || strings.Count(out, "bundled  ") != len(p.refs) {
				t.Fatalf("bundle: got %d\n%s%s", code, out, problems)
			}
			wantAskedOnce(t, p.public)
			if out, problems, code := berth(t, "bundle", "--check", path); code != 0 || strings.Count(out, "good     ") != len(p.refs) {
				t.Errorf("check: got %d\n%s%s", code, out, problems)
			}
			out, _, _ = berth(t, "bundle", "--check", path, "--output", "json")
			wantSchema(t, "bundle", out)
			left, _ := filepath.Glob(filepath.Join(dir, ".*"))
			if len(left) > 0 {
				t.Errorf("got %q left", left)
			}
			if _, problems, code := berth(t, append([]string{"bundle", "--out", path, "--config", direct}, p.refs...)...); code != 1 || !strings.Contains(problems, "file already exists; remove it, or choose another name") {
				t.Errorf("bundle again: got %d %s", code, problems)
			}
			p.boots(t, path)
			p.fills(t, path)
		})
	}
}

// wantAskedOnce fails t unless a registry was asked for each blob once, also for what several images share.
func wantAskedOnce(t *testing.T, r *registry.Registry) {
	t.Helper()
	count := map[string]int{}
	for _, request := range r.Log.Match("GET", "/v2/*/blobs/*") {
		count[filepath.Base(request.Path)]++
	}
	for digest, n := range count {
		if n != 1 {
			t.Errorf("blob %s: got it asked for %d times, want once", digest, n)
		}
	}
	if len(count) == 0 {
		t.Error("got no blob asked for")
	}
}

// boots has a node run the images of a bundle with no registry to be reached, under the digests that they have at their source. It
// returns the node's log.
func (p profile) boots(t testing.TB, bundle string) *daemon.Log {
	t.Helper()
	n := startNode(t, "[[registries]]\ndomain = \"registry.invalid\"\n", daemon.Options{
		Config: fmt.Sprintf("version = 3\n[plugins.\"io.containerd.loader.v1.bundle\"]\npaths = [%q]\n", strings.TrimSuffix(bundle, "/")),
	})
	for i, ref := range p.refs {
		if err := pullCtr(t, n.Daemon, ref); err != nil {
			t.Errorf("pull %s: %v", ref, err)
			continue
		}
		if got, want := n.CtrRun(t, "default", ref, fmt.Sprint("c", i)), fmt.Sprintf("hello app%d\n", i); got != want {
			t.Errorf("%s: got %q, want %q", ref, got, want)
		}
		if digest := p.images[ref].Digest.String(); !strings.Contains(n.Ctr(t, "images", "ls"), digest) {
			t.Errorf("%s: got no digest %s among the images", ref, digest)
		}
	}
	return n.Log
}

// fills copies from a bundle into an empty registry, while nothing else can be reached.
func (p profile) fills(t testing.TB, bundle string) {
	t.Helper()
	p.own = registry.Start(t, registry.Options{Users: ann})
	p.config = filepath.Join(t.TempDir(), "berth.toml")
	write(t, p.config, entry(t, p.own, "cluster", login("ann", "s3cret"))+rule(p.public.Host(), p.own.Host()+"/cluster/mirror"))
	p.public.Log.Reset()
	if out, code := p.copied(t, "--from", bundle, "--referrers"); code != 0 || !strings.Contains(out, "8 images: 8 copied, ") ||
		!strings.Contains(out, "warning: "+bundle+" holds images only; write it with berth bundle --referrers\n") {
		t.Fatalf("copy --from %s: got %d\n%s", bundle, code, out)
	}
	if present, out := p.checked(t); present != len(p.refs) {
		t.Errorf("got %d images, want %d:\n%s", present, len(p.refs), out)
	}
	if got := p.public.Log.Requests(); len(got) > 0 {
		t.Errorf("the public registry was asked:\n%s", p.public.Log.Lines())
	}
}

// TestBundlePowerCut cuts power as soon as a bundle was written, of each kind: it is there, and whole.
func TestBundlePowerCut(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", 70, 3<<20))}}).Push(t, r, "app:1")
	config := filepath.Join(t.TempDir(), "registry.toml")
	write(t, config, entry(t, r, ""))
	disk := powercut.New(t, 64<<20)
	for _, name := range []string{"a.tar", "b.tar.zst", "c/"} {
		if out, problems, code := berth(t, "bundle", "--config", config, "--out", disk.Dir+"/"+name, r.Host()+"/app:1"); code != 0 {
			t.Fatalf("%s: got %d\n%s%s", name, code, out, problems)
		}
		disk.Cut(t) // before another bundle is synced, and this one with it
		disk.Restore(t)
		if out, problems, code := berth(t, "bundle", "--check", disk.Dir+"/"+name); code != 0 {
			t.Errorf("%s: got %d after the cut, want it whole\n%s%s", name, code, out, problems)
		}
	}
}

// TestBundleDiskFull writes a bundle of each kind to a disk that has no room for it: that is an error, and nothing is left. A small
// one is compressed in memory, and finds out at its end.
func TestBundleDiskFull(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	image.Small("linux/amd64", 7).Push(t, r, "small:1")
	image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", 70, 9<<20))}}).Push(t, r, "large:1")
	config := filepath.Join(t.TempDir(), "registry.toml")
	write(t, config, entry(t, r, ""))
	disk := powercut.New(t, 16<<20)
	filler, err := os.Create(disk.Dir + "/filler")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(filler, rand.Reader); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v, want a full disk", err)
	}
	if err := filler.Close(); err != nil {
		t.Fatal(err)
	}
	for _, app := range []string{"small", "large"} {
		for _, name := range []string{"a.tar", "b.tar.zst", "c/"} {
			out, problems, code := berth(t, "bundle", "--config", config, "--out", disk.Dir+"/"+name, r.Host()+"/"+app+":1")
			if code != 1 || !strings.Contains(out+problems, "no space left on device") {
				t.Errorf("%s as %s: got %d\n%s%s\nwant that there is no space", app, name, code, out, problems)
			}
			if left := names(t, disk.Dir); len(left) != 2 { // and lost+found
				t.Fatalf("%s as %s: got %q left", app, name, left)
			}
		}
	}
}

// TestBundlePlatform leaves the other platforms out, and keeps the digest of the index.
func TestBundlePlatform(t *testing.T) {
	p := newProfile(t, 4, registry.Options{})
	direct := filepath.Join(t.TempDir(), "berth.toml")
	write(t, direct, entry(t, p.public, "")+rule("*", "source"))
	path := filepath.Join(t.TempDir(), "cluster.tar")
	out, problems, code := berth(t, append([]string{"bundle", "--platform", "linux/amd64", "--out", path, "--config", direct}, p.refs...)...)
	if code != 0 {
		t.Fatalf("got %d\n%s%s", code, out, problems)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range p.images {
		if arm := img.For("linux/arm64"); arm != nil && bytes.Contains(text, arm.Layers[0].Blob) {
			t.Errorf("got the layer for arm64 of %s", img.Digest)
		}
		if !bytes.Contains(text, img.Content) {
			t.Errorf("got no manifest or index %s", img.Digest)
		}
	}
	p.boots(t, path)
}

// TestOtherPlatform asks for a platform that images are not for: copy and bundle say so, as check does.
func TestOtherPlatform(t *testing.T) {
	p := newProfile(t, 0, registry.Options{})
	p.add(t, "one:1", image.Small("linux/amd64", 3))
	p.add(t, "two:1", image.Multi(4))
	direct := t.TempDir() + "/berth.toml"
	write(t, direct, entry(t, p.public, ""))
	bundle := t.TempDir() + "/a.tar"
	for _, args := range [][]string{{"check", "--config", direct}, {"copy", "--config", p.config}, {"bundle", "--out", bundle, "--config", direct}} {
		out, problems, code := berth(t, append(append(args, "--platform", "linux/s390x"), p.refs...)...)
		for _, want := range []string{"it is for linux/amd64, not for linux/s390x", "it is for linux/amd64, linux/arm64, not for linux/s390x"} {
			if code != 1 || strings.Count(out, want) != 1 {
				t.Errorf("%s: got %d\n%s%s\nwant %q", args[0], code, out, problems, want)
			}
		}
	}
	if _, err := os.Stat(bundle); err == nil {
		t.Error("got a bundle")
	}
}

// TestCopyOneThenAnother copies one platform of an image, and then another: the name is taken, as check says too.
func TestCopyOneThenAnother(t *testing.T) {
	p := newProfile(t, 0, registry.Options{})
	p.add(t, "team/app:1", image.Multi(9))
	for _, tt := range []struct {
		platform, want string
		code           int
	}{
		{"linux/arm64", "1 copied", 0},
		{"linux/arm64", "1 present", 0},
		{"", "1 present", 0},
		{"linux/amd64", "/cluster/mirror/team/app:1 is there: it is for linux/arm64, not for linux/amd64", 1},
	} {
		if out, code := p.copied(t, "--platform", tt.platform); code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("copy for %s: got %d\n%s\nwant %d %q", tt.platform, code, out, tt.code, tt.want)
		}
	}
}

// TestAbsentPlatform copies and bundles an index that is whole for one platform only: without --platform that is an error which names
// it, with it that platform is taken.
func TestAbsentPlatform(t *testing.T) {
	img := image.Multi(8)
	public := registry.Start(t, registry.Options{Middleware: registry.On("GET", "/v2/*/manifests/"+img.For("linux/arm64").Digest.String(), -1, registry.Fail(http.StatusNotFound))})
	img.Push(t, public, "team/app:1")
	ref := public.Host() + "/team/app:1"
	dir := t.TempDir()
	held := image.WriteFile(t, dir+"/held.tar", image.Tar(image.OCI([]image.Named{img.Name(ref)}, "linux/amd64")))
	write(t, dir+"/direct.toml", entry(t, public, ""))
	for _, args := range [][]string{
		{"copy", "--config", dir + "/copy.toml"},
		{"copy", "--config", dir + "/copy.toml", "--from", held},
		{"bundle", "--config", dir + "/direct.toml", "--out", dir + "/app.tar"},
	} {
		own := registry.Start(t, registry.Options{})
		write(t, dir+"/copy.toml", entry(t, public, "")+entry(t, own, "")+rule(public.Host(), own.Host()+"/m"))
		args = append(args, ref)
		out, problems, code := berth(t, args...)
		if want := "its image for linux/arm64 is absent; name the platform to take with --platform: "; code != 1 || !strings.Contains(out, want) {
			t.Errorf("%q: got %d\n%s%s\nwant %q", args, code, out, problems, want)
		}
		if out, problems, code := berth(t, append(args, "--platform", "linux/amd64")...); code != 0 {
			t.Errorf("%q for one platform: got %d\n%s%s", args, code, out, problems)
		}
	}
}

// TestBundleResumed reads a layer whose connection is lost half-way: what was read is not read again, unless the registry has no parts
// of a blob to give.
func TestBundleResumed(t *testing.T) {
	const size, part = 6_000_000, 2_000_000
	img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("file", 77, size))}})
	layer := "/v2/*/blobs/" + img.Layers[0].Digest.String()
	for _, tt := range []struct {
		name  string
		fault registry.Fault
		want  int64 // what is read after the connection is lost
	}{
		{"the registry says that it has parts", func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) }, size - part},
		{"it does not say so", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(withoutHeader{w, "Accept-Ranges"}, r)
		}, size - part},
		{"it has none", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Del("Range")
			next.ServeHTTP(withoutHeader{w, "Accept-Ranges"}, r)
		}, size},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProfile(t, 0, registry.Options{Middleware: registry.Chain(registry.On("GET", layer, -1, tt.fault), registry.On("GET", layer, 1, registry.Truncate(part)))})
			img.Push(t, p.own, "cluster/mirror/app:1")
			path := t.TempDir() + "/app.tar"
			out, problems, code := berth(t, "bundle", "--out", path, "--config", p.config, p.public.Host()+"/app:1")
			if code != 0 {
				t.Fatalf("got %d\n%s%s", code, out, problems)
			}
			if out, problems, code := berth(t, "bundle", "--check", path); code != 0 {
				t.Errorf("check: got %d\n%s%s", code, out, problems)
			}
			requests := p.own.Log.Match("GET", layer)
			if len(requests) != 3 { // the second has no range, and is left as soon as it is known that there may be one
				t.Fatalf("got %d requests, want 3:\n%v", len(requests), requests)
			}
			if got := max(requests[1].Sent, requests[2].Sent); tt.want == size && got < size {
				t.Errorf("got %d bytes by %v, want all %d", got, requests, size)
			}
			if got := requests[2].Sent; tt.want < size && (got < tt.want || got > tt.want+100_000) {
				t.Errorf("got the rest by %v, want %d bytes", requests[2], tt.want)
			}
		})
	}
}

// TestBundleNonDistributable bundles an index as that of pause is, whose image for Windows has a layer that no registry gives away:
// the bundle is good without it.
func TestBundleNonDistributable(t *testing.T) {
	linux, windows := image.Small("linux/amd64", 11), image.Small("windows/amd64", 12)
	layer := string(windows.Layers[0].Digest)
	text := strings.Replace(string(windows.Content), ocispec.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 1)
	windows.Content, windows.Digest, windows.Size = []byte(text), digest.FromString(text), int64(len(text))
	index := image.Index(linux, windows)
	r := registry.Start(t, registry.Options{Middleware: registry.Chain(
		registry.On("", "/v2/*/manifests/*", -1, serve(index, linux, windows)), registry.On("", "/v2/*/blobs/"+layer, -1, registry.Fail(http.StatusNotFound)))})
	linux.Push(t, r, "pause:linux")
	repo := repository(t, r, "pause")
	for _, blob := range windows.Blobs() {
		if _, err := oras.PushBytes(t.Context(), repo, "application/octet-stream", blob); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	write(t, dir+"/berth.toml", entry(t, r, ""))
	if out, problems, code := berth(t, "bundle", "--out", dir+"/pause.tar", "--config", dir+"/berth.toml", r.Host()+"/pause:3"); code != 0 {
		t.Fatalf("got %d\n%s%s", code, out, problems)
	}
	if out, problems, code := berth(t, "bundle", "--check", dir+"/pause.tar"); code != 0 {
		t.Errorf("check: got %d\n%s%s", code, out, problems)
	}
}

// TestBundleChecked finds what is wrong with an image of a bundle, and that the other is good.
func TestBundleChecked(t *testing.T) {
	img, good := image.Small("linux/amd64", 3), image.Small("linux/amd64", 5)
	images := []image.Named{img.Name("quay.io/a/b:1"), good.Name("quay.io/a/c:1")}
	layer := img.Layers[0].Digest
	wrong := func(entries []image.Entry) []image.Entry {
		for i, e := range entries {
			if bytes.Equal(e.Data, img.Layers[0].Blob) {
				entries[i].Data = bytes.Clone(e.Data)
				entries[i].Data[len(e.Data)/2] ^= 1
			}
		}
		return entries
	}
	missing := func(entries []image.Entry) []image.Entry {
		return slices.DeleteFunc(entries, func(e image.Entry) bool { return strings.HasSuffix(e.Name, layer.Encoded()) })
	}
	for _, tt := range []struct {
		name    string
		entries []image.Entry
		want    string
	}{
		{"OCI, good", image.OCI(images), ""},
		{"OCI, a byte is wrong", wrong(image.OCI(images)), fmt.Sprintf("blob %s: mismatched digest", layer)},
		{"OCI, a layer is missing", missing(image.OCI(images)), fmt.Sprintf("blob %s is not in the bundle", layer)},
		{"crane, good", image.Crane(images), ""},
		{"crane, a byte is wrong", wrong(image.Crane(images)), fmt.Sprintf("blob %s: mismatched digest", layer)},
		{"docker 25, a layer is missing", missing(image.Docker25(images)), fmt.Sprintf("blob %s is not in the bundle", layer)},
	} {
		for name, pack := range map[string]func([]byte) []byte{"plain": func(b []byte) []byte { return b }, "gzip": image.Gzip, "zstd": image.Zstd} {
			t.Run(tt.name+", "+name, func(t *testing.T) {
				path := image.WriteFile(t, t.TempDir()+"/core.tar", pack(image.Tar(tt.entries)))
				out, problems, code := berth(t, "bundle", "--check", path, "--output", "json")
				wantSchema(t, "bundle", out)
				var got []struct{ Ref, Error string }
				if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != 2 {
					t.Fatalf("got %d %s%s, want two images", code, out, problems)
				}
				if got[0].Error != tt.want || got[1].Error != "" || (code == 0) != (tt.want == "") {
					t.Errorf("got %d %s, want %q and a good image", code, out, tt.want)
				}
			})
		}
	}
}
