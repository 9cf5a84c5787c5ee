// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// profile is a "public" registry with the images of a cluster, some of several platforms, which share layers; and an empty one
// of one's own.
type profile struct {
	public, own *registry.Registry
	refs        []string
	images      map[string]*image.Image
	config      string // of a node, as a file
}

func newProfile(t testing.TB, images int, own registry.Options) profile {
	t.Helper()
	daemon.RequireRoot(t)
	p := profile{images: map[string]*image.Image{}}
	p.public = registry.Start(t, registry.Options{})
	own.Users = ann
	p.own = registry.Start(t, own)
	base := []image.Layer{
		image.NewLayer(image.Program(t)),
		image.NewLayer(image.Random("usr/lib/shared", 7, 200_000)),
	}
	for i := range images {
		layers := append(base[:1+i%2:1+i%2], image.NewLayer(image.Random("etc/app", uint64(1000+i), 20_000)))
		img := image.New(image.Config{Layers: layers, Entrypoint: []string{"/probe", "hello"}, Cmd: []string{fmt.Sprint("app", i)}, Docker: i%5 == 4})
		if i%4 == 3 {
			img = image.Index(img, image.Small("linux/arm64", uint64(5000+i)))
		}
		ref := fmt.Sprintf("%s/team%d/app%d:1.%d", p.public.Host(), i%3, i, i)
		img.Push(t, p.public, strings.TrimPrefix(ref, p.public.Host()+"/"))
		if i%10 == 5 {
			ref = fmt.Sprintf("%s/team%d/app%d:1.%d@%s", p.public.Host(), i%3, i, i, img.Digest)
		}
		p.refs = append(p.refs, ref)
		p.images[ref] = img
	}
	p.config = filepath.Join(t.TempDir(), "berth.toml")
	write(t, p.config, entry(t, p.own, "cluster", login("ann", "s3cret"))+entry(t, p.public, "")+
		rule(p.public.Host(), p.own.Host()+"/cluster/mirror"))
	return p
}

// add puts an image into the public registry.
func (p *profile) add(t testing.TB, name string, img *image.Image) {
	t.Helper()
	img.Push(t, p.public, name)
	ref := p.public.Host() + "/" + name
	p.refs = append(p.refs, ref)
	p.images[ref] = img
}

// checked runs berth check, and returns how many images it finds present.
func (p profile) checked(t testing.TB) (present int, out string) {
	t.Helper()
	out, problems, code := berth(t, append([]string{"check", "--output", "json", "--config", p.config}, p.refs...)...)
	wantSchema(t, "images", out)
	var images []struct {
		Ref, Pull, Digest string
		Present           bool
		Size              int64
		Failures          []struct{ Cause string }
	}
	if err := json.Unmarshal([]byte(out), &images); err != nil || len(images) != len(p.refs) {
		t.Fatalf("check: got %v\n%s\n%s", err, out, problems)
	}
	for _, i := range images {
		if !i.Present {
			continue
		}
		present++
		img := p.images[i.Ref]
		if i.Digest != img.Digest.String() || i.Size != img.For("linux/amd64").Bytes() || !strings.HasPrefix(i.Pull, p.own.Host()+"/cluster/mirror/team") {
			t.Errorf("check %s: got %+v, want %s and %d bytes", i.Ref, i, img.Digest, img.For("linux/amd64").Bytes())
		}
	}
	if want := map[bool]int{true: 0, false: 1}[present == len(p.refs)]; code != want {
		t.Errorf("check: got exit status %d, want %d", code, want)
	}
	return present, out
}

// TestCopyFromPrivate copies from a registry that wants a credential, as docs/commands.md says, and not without it.
func TestCopyFromPrivate(t *testing.T) {
	private, own := registry.Start(t, registry.Options{Users: map[string]string{"bob": "hidden"}}), registry.Start(t, registry.Options{Users: ann})
	img := image.Small("linux/amd64", 77)
	img.Push(t, private, "team/app:1")
	config := filepath.Join(t.TempDir(), "berth.toml")
	for _, tc := range []struct {
		credential, want string
		code             int
	}{
		{"", "asks for a username and a password, and none is configured", 1},
		{login("bob", "hidden"), "1 copied", 0},
	} {
		write(t, config, entry(t, own, "images", login("ann", "s3cret"))+entry(t, private, "", tc.credential)+
			rule(private.Host(), own.Host()+"/images/quay"))
		out, problems, code := berth(t, "copy", "--config", config, private.Host()+"/team/app:1")
		if code != tc.code || !strings.Contains(out+problems, tc.want) {
			t.Errorf("got %d\n%s%s\nwant %d and %s", code, out, problems, tc.code, tc.want)
		}
	}
	if got := own.Log.Match("PUT", "/v2/images/quay/team/app/manifests/1"); len(got) != 1 {
		t.Errorf("got %d manifests put, want one:\n%s", len(got), own.Log.Lines())
	}
}

// TestCopy fills an empty registry of one's own with the images of a cluster, and has a node run a container of each with
// no other registry to be reached.
func TestCopy(t *testing.T) {
	p := newProfile(t, 40, registry.Options{})
	if present, out := p.checked(t); present != 0 || strings.Count(out, `"cause": "missing"`) != 40 {
		t.Fatalf("before the copy: got %d present, want 40 missing:\n%s", present, out)
	}
	p.public.Log.Reset()
	p.own.Log.Reset()
	out, problems, code := berth(t, append([]string{"copy", "--config", p.config}, p.refs...)...)
	if code != 0 || !strings.Contains(out, "40 images: 40 copied, 0 present, 0 skipped, 0 failed; ") || strings.Contains(out, " 0 B mounted") {
		t.Fatalf("copy: got %d\n%s%s", code, out, problems)
	}
	wantAskedOnce(t, p.public)
	// No manifest is read twice, and nothing is looked for twice.
	for r, method := range map[*registry.Registry]string{p.public: "", p.own: "HEAD"} {
		asked := map[string]int{}
		for _, request := range r.Log.Match(method, "/v2/*/manifests/*") {
			if request.Status != http.StatusUnauthorized {
				asked[request.Path]++
			}
		}
		if len(asked) < 40 {
			t.Errorf("%s: got %d manifests asked for, want one an image or more", r.Host(), len(asked))
		}
		for path, times := range asked {
			if times > 1 {
				t.Errorf("%s: got %s asked for %d times, want once", r.Host(), path, times)
			}
		}
	}
	// A layer that images share was sent once, and mounted for the others.
	for digest, layer := range p.layers() {
		if got := len(p.own.Log.Match("PUT", "/v2/*/blobs/uploads/*")); got == 0 {
			t.Fatalf("got no upload:\n%s", p.own.Log.Lines())
		}
		sent := 0
		for _, r := range p.own.Log.Match("PUT", "") {
			if r.Query.Get("digest") == digest {
				sent++
			}
		}
		if sent != 1 {
			t.Errorf("layer %s of %d images: got it sent %d times, want once", digest, layer, sent)
		}
	}
	filled := map[string]bool{}
	for _, r := range p.own.Log.Match("PUT", "/v2/*/manifests/*") {
		filled[strings.TrimPrefix(path.Dir(path.Dir(r.Path)), "/v2/")] = true
	}
	for _, r := range p.own.Log.Match("POST", "") {
		if from := r.Query.Get("from"); from != "" && !filled[from] {
			t.Errorf("got %s: it was told of a repository of another registry", r)
		}
	}
	if present, out := p.checked(t); present != 40 {
		t.Fatalf("after the copy: got %d present, want 40:\n%s", present, out)
	}
	p.own.Log.Reset()
	p.public.Log.Reset() // which may be out of reach by now
	out, _, code = berth(t, append([]string{"copy", "--config", p.config}, p.refs...)...)
	if got := p.public.Log.Requests(); len(got) > 0 {
		t.Errorf("copy again: the public registry was asked:\n%s", p.public.Log.Lines())
	}
	if code != 0 || !strings.Contains(out, "40 images: 0 copied, 40 present, 0 skipped, 0 failed; 0 B sent, 0 B mounted") || len(p.own.Log.Match("PUT", "")) != 0 {
		t.Errorf("copy again: got %d\n%s\n%s", code, out, p.own.Log.Lines())
	}

	out, code = p.copied(t, "--output", "json")
	wantSchema(t, "copy", out)
	if code != 0 || strings.Count(out, `"state": "present"`) != 40 {
		t.Errorf("copy once more: got %d\n%s", code, out)
	}

	p.public.Close()
	p.runsAll(t)
}

// layers counts the images that have each layer.
func (p profile) layers() map[string]int {
	count := map[string]int{}
	for _, img := range p.images {
		for _, layer := range img.For("linux/amd64").Layers {
			count[layer.Digest.String()]++
		}
	}
	return count
}

// runsAll runs a container of each image on a node of its own.
func (p profile) runsAll(t testing.TB) {
	t.Helper()
	n := startNode(t, "", daemon.Options{DropIns: map[string]string{"10-berth.toml": stanza(fmt.Sprintf("config_path = [%q]", p.config))}})
	for i, ref := range p.refs {
		if err := pullCtr(t, n.Daemon, ref); err != nil {
			t.Errorf("pull %s: %v", ref, err)
			continue
		}
		want := fmt.Sprintf("hello app%d\n", i)
		if got := n.CtrRun(t, "default", ref, fmt.Sprint("c", i)); got != want {
			t.Errorf("%s: got %q, want %q", ref, got, want)
		}
	}
}

// TestCopyClash copies two images that the rules send to one place: the second is refused, and does not take the place of the first.
// One image with two names is no fault.
func TestCopyClash(t *testing.T) {
	p := newProfile(t, 0, registry.Options{})
	p.add(t, "team/app:1", image.Small("linux/amd64", 3))
	p.add(t, "other/app:1", image.Small("linux/amd64", 4))
	p.add(t, "third/app:1", image.Small("linux/amd64", 3))
	write(t, p.config, entry(t, p.own, "cluster", login("ann", "s3cret"))+entry(t, p.public, "")+
		rule(p.public.Host(), p.own.Host()+"/cluster")+"path = \"base\"\n")
	for range 2 {
		out, code := p.copied(t)
		want := fmt.Sprintf("copy %s: %s/cluster/app:1 is where %s is pulled from too, and is another image; ", p.refs[1], p.own.Host(), p.refs[0])
		if code != 1 || strings.Count(out, want) != 1 || !strings.Contains(out, " 1 failed; ") {
			t.Errorf("got %d\n%s\nwant %q", code, out, want)
		}
		got, err := repository(t, p.own, "cluster/app").Resolve(t.Context(), "1")
		if err != nil || got.Digest != p.images[p.refs[0]].Digest {
			t.Errorf("got %s %v, want the first image, %s", got.Digest, err, p.images[p.refs[0]].Digest)
		}
	}
}

// TestCopyTagBesideDigest copies an image by a digest beside a tag that is another image's at the destination: the tag is given to it,
// once.
func TestCopyTagBesideDigest(t *testing.T) {
	p := newProfile(t, 0, registry.Options{})
	img := image.Small("linux/amd64", 3)
	image.Small("linux/amd64", 4).Push(t, p.own, "cluster/mirror/team/app:1")
	img.Push(t, p.public, "team/app:1")
	p.refs = []string{p.public.Host() + "/team/app:1@" + img.Digest.String()}
	for _, want := range []string{" 1 copied, ", " 1 present, "} {
		p.own.Log.Reset()
		if out, code := p.copied(t); code != 0 || !strings.Contains(out, want) {
			t.Errorf("got %d\n%s\nwant %q", code, out, want)
		}
		got, err := repository(t, p.own, "cluster/mirror/team/app").Resolve(t.Context(), "1")
		if err != nil || got.Digest != img.Digest {
			t.Errorf("got %s %v, want %s", got.Digest, err, img.Digest)
		}
	}
	if got := p.own.Log.Match("PUT", ""); len(got) > 0 {
		t.Errorf("got it put again: %v", got)
	}
}

// TestCopyOneOfDigest copies one platform of an index that is named by its digest: what nodes would ask for is not to be had so, and
// nothing is put. An image for that platform is copied by its digest.
func TestCopyOneOfDigest(t *testing.T) {
	p := newProfile(t, 0, registry.Options{})
	img := image.Multi(9)
	img.Push(t, p.public, "team/app:1")
	p.refs = []string{p.public.Host() + "/team/app@" + img.Digest.String()}
	out, code := p.copied(t, "--platform", "linux/amd64")
	if want := "which one platform of it does not have; copy all platforms"; code != 1 || !strings.Contains(out, want) {
		t.Errorf("got %d\n%s\nwant %q", code, out, want)
	}
	if got := p.own.Log.Match("PUT", ""); len(got) > 0 {
		t.Errorf("got it put: %v", got)
	}
	p.refs = []string{p.public.Host() + "/team/app@" + img.For("linux/amd64").Digest.String()}
	if out, code := p.copied(t, "--platform", "linux/amd64"); code != 0 || !strings.Contains(out, "1 image: 1 copied, ") {
		t.Errorf("got %d\n%s", code, out)
	}
}

// TestCopyWholeBundle copies from bundles without a word of what: every image that has a name is meant.
func TestCopyWholeBundle(t *testing.T) {
	p := newProfile(t, 2, registry.Options{})
	var images []image.Named
	for _, ref := range p.refs {
		images = append(images, p.images[ref].Name(ref))
	}
	dir := t.TempDir()
	whole := image.WriteFile(t, dir+"/whole.tar", image.Tar(image.OCI(images)))
	nameless := image.WriteFile(t, dir+"/nameless.tar", image.Tar(image.OCI([]image.Named{image.Small("linux/amd64", 3).Name("")})))
	out, problems, code := berth(t, "copy", "--config", p.config, "--from", whole, "--referrers")
	if code != 0 || !strings.Contains(out, "2 images: 2 copied, ") || !strings.Contains(problems, "warning: "+whole+" holds images only; ") {
		t.Errorf("got %d\n%s%s", code, out, problems)
	}
	if present, out := p.checked(t); present != 2 {
		t.Errorf("got %d images, want 2:\n%s", present, out)
	}
	out, problems, code = berth(t, "copy", "--config", p.config, "--from", nameless)
	if want := "error: copy from " + nameless + ": none of its images has a name; "; code != 1 || !strings.Contains(problems, want) {
		t.Errorf("got %d\n%s%s\nwant %q", code, out, problems, want)
	}
}

// TestCopyOwnName copies images whose names are those that they are pulled by: from a bundle into their registry if it is configured,
// and nowhere else.
func TestCopyOwnName(t *testing.T) {
	p := newProfile(t, 0, registry.Options{})
	own, other := p.own.Host()+"/cluster/team/app:1", p.public.Host()+"/team/app:1"
	app := image.Small("linux/amd64", 3)
	bundle := image.WriteFile(t, t.TempDir()+"/app.tar", image.Tar(image.OCI([]image.Named{app.Name(own), app.Name(other)})))
	write(t, p.config, entry(t, p.own, "cluster", login("ann", "s3cret"))+rule("*", "source"))
	out, problems, code := berth(t, "copy", "--config", p.config, own)
	if want := "skipped  " + own + "\n  it is pulled from the registry that it names\n"; code != 0 || !strings.HasPrefix(out, want) {
		t.Errorf("without a bundle: got %d\n%s%s\nwant %q", code, out, problems, want)
	}
	for _, state := range []string{"copied ", "present"} {
		out, problems, code := berth(t, "copy", "--config", p.config, "--from", bundle)
		for _, want := range []string{
			state + "  " + own + "\n  " + own + "  " + app.Digest.String(),
			"skipped  " + other + "\n  it is pulled from the registry that it names, which is not configured\n",
		} {
			if code != 0 || !strings.Contains(out, want) {
				t.Errorf("got %d\n%s%s\nwant %q", code, out, problems, want)
			}
		}
	}
	if out, problems, code := berth(t, "check", "--config", p.config, own); code != 0 {
		t.Errorf("check: got %d\n%s%s", code, out, problems)
	}
	if got := p.public.Log.Match("", "/v2/*"); len(got) > 0 {
		t.Errorf("the registry that is not configured was asked:\n%s", p.public.Log.Lines())
	}
}

// TestCopyFromSeveral copies from two bundles at once: the first that has an image is taken.
func TestCopyFromSeveral(t *testing.T) {
	p := newProfile(t, 0, registry.Options{})
	name := func(ref string) string { return p.public.Host() + "/" + ref }
	both, first, second := image.Small("linux/amd64", 3), image.Small("linux/amd64", 4), image.Small("linux/amd64", 5)
	dir := t.TempDir()
	a := image.WriteFile(t, dir+"/a.tar", image.Tar(image.OCI([]image.Named{both.Name(name("both:1")), first.Name(name("first:1"))})))
	b := image.WriteFile(t, dir+"/b.tar", image.Tar(image.OCI([]image.Named{first.Name(name("both:1")), second.Name(name("second:1"))})))
	out, problems, code := berth(t, "copy", "--config", p.config, "--from", a, "--from", b)
	if code != 0 || !strings.Contains(out, "3 images: 3 copied, ") {
		t.Errorf("got %d\n%s%s", code, out, problems)
	}
	for repo, want := range map[string]*image.Image{"both": both, "first": first, "second": second} {
		got, err := repository(t, p.own, "cluster/mirror/"+repo).Resolve(t.Context(), "1")
		if err != nil || got.Digest != want.Digest {
			t.Errorf("%s: got %s %v, want %s", repo, got.Digest, err, want.Digest)
		}
	}
	out, _, code = berth(t, "copy", "--config", p.config, "--from", a, "--from", b, name("absent:1"))
	if want := fmt.Sprintf("none of the bundles %s, %s has the image %s: not found\n", a, b, name("absent:1")); code != 1 || !strings.Contains(out, want) {
		t.Errorf("got %d\n%s\nwant %q", code, out, want)
	}
}
