// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// registries are the two kinds that pulls are tried with. The token server grants the rewritten repositories only: a
// token for the scope of the original name is refused.
var registries = []struct {
	name string
	opts func() registry.Options
}{
	{"basic", func() registry.Options { return registry.Options{Users: ann} }},
	{"token", func() registry.Options {
		return registry.Options{Tokens: &registry.Tokens{Users: map[string]registry.User{
			"ann": {Password: "s3cret", Scopes: []string{"repository:internal/quay.io/*:pull"}},
		}}}
	}},
}

// forms are the ways to name an image, DIGEST being its digest. CRI drops the tag of the last.
var forms = []struct{ name, suffix, asked, inCRI string }{
	{"tag", ":1", "1", ":1"},
	{"digest", "@DIGEST", "DIGEST", "@DIGEST"},
	{"tag and digest", ":1@DIGEST", "DIGEST", "@DIGEST"},
}

// TestPull pulls a multi-platform index by every form of reference, through every client, from both kinds of
// registry. Each pull has an image and a repository of its own.
func TestPull(t *testing.T) {
	for _, kind := range registries {
		t.Run(kind.name, func(t *testing.T) {
			r := registry.Start(t, kind.opts())
			n := startNode(t, entry(t, r, "internal", login("ann", "s3cret")), daemon.Options{CRI: true})
			seed := uint64(100)
			for _, c := range clients {
				for _, form := range forms {
					t.Run(c.name+" by "+form.name, func(t *testing.T) {
						seed += 10
						path := fmt.Sprintf("quay.io/team/%s-%s", strings.ToLower(c.name), strings.ReplaceAll(form.name, " ", "-"))
						img := image.Multi(seed)
						img.Push(t, r, "internal/"+path+":1")
						fill := func(s string) string { return strings.ReplaceAll(s, "DIGEST", img.Digest.String()) }
						p := pulled{img: img, path: path, ref: path + fill(form.suffix), asked: fill(form.asked)}
						p.stored = p.ref
						if c.name == "CRI" {
							p.stored = path + fill(form.inCRI)
						}
						p.check(t, n, r, c)
					})
				}
			}
		})
	}
}

// pulled is one pull of an image that the registry has as internal/PATH:1.
type pulled struct {
	img         *image.Image
	path        string // original repository
	ref, stored string // what is asked for, and the name that it is kept under
	asked       string // tag or digest that the registry must be asked for
}

// check pulls, and checks what the registry was asked and what the node has afterwards.
func (p pulled) check(t *testing.T, n node, r *registry.Registry, c client) {
	r.Log.Reset()
	if err := c.pull(t, n.Daemon, p.ref); err != nil {
		t.Fatalf("pull: %v\n%s", err, r.Log.Lines())
	}
	base := "/v2/internal/" + p.path + "/"
	var first string
	for _, req := range r.Log.Requests() {
		if req.Path == "/token" {
			if got, want := req.Query.Get("scope"), "repository:internal/"+p.path+":pull"; got != want {
				t.Errorf("got token request for %q, want %q", got, want)
			}
			continue
		}
		if !strings.HasPrefix(req.Path, base) {
			t.Errorf("got request %s, want only ones below %s", req, base)
		}
		if first == "" {
			first = req.Path
		}
		if p.asked != "1" && strings.HasSuffix(req.Path, "/1") {
			t.Errorf("got request %s of the tag, want the digest only", req)
		}
	}
	if want := base + "manifests/" + p.asked; first != want {
		t.Errorf("got first request %q, want %q", first, want)
	}
	for _, one := range p.img.Images {
		wanted := map[string]int{"amd64": 1, "arm64": 0}[one.Platform.Architecture]
		if got := len(served(r, base+"blobs/"+one.Layers[0].Digest.String())); got != wanted {
			t.Errorf("%s: got the layer %d times, want %d:\n%s", one.Platform.Architecture, got, wanted, r.Log.Lines())
		}
	}
	names := strings.Fields(n.Ctr(t, "--namespace", c.namespace, "images", "ls", "-q"))
	if !slices.Contains(names, p.stored) {
		t.Errorf("got images %q, want %q among them", names, p.stored)
	}
	for _, name := range names {
		if strings.Contains(name, "internal") || strings.Contains(name, r.Host()) {
			t.Errorf("got image %q, want original names only", name)
		}
	}
	if err := p.img.For("linux/amd64").Compare(n.Rootfs(t, c.namespace, p.stored)); err != nil {
		t.Error(err)
	}
	if c.name == "CRI" {
		p.checkCRI(t, n)
	}
}

// served returns the requests of a path that were answered with the content.
func served(r *registry.Registry, path string) (found []registry.Request) {
	for _, req := range r.Log.Match("GET", path) {
		if req.Status == 200 || req.Status == 206 {
			found = append(found, req)
		}
	}
	return found
}

// checkCRI checks that CRI lists the image under the name that was asked for, and under no other.
func (p pulled) checkCRI(t *testing.T, n node) {
	t.Helper()
	images, _ := n.CRI(t)
	list, err := images.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	id := p.img.For("linux/amd64").ConfigDigest.String()
	i := slices.IndexFunc(list.Images, func(img *cri.Image) bool { return img.Id == id })
	if i < 0 {
		t.Fatalf("got images %v of CRI, want %s among them", list.Images, id)
	}
	var tags []string
	if !strings.Contains(p.stored, "@") {
		tags = []string{p.stored}
	}
	if got := list.Images[i].RepoTags; !slices.Equal(got, tags) {
		t.Errorf("got tags %q, want %q", got, tags)
	}
	if got, want := list.Images[i].RepoDigests, []string{p.path + "@" + p.img.Digest.String()}; !slices.Equal(got, want) {
		t.Errorf("got digests %q, want %q", got, want)
	}
}
