// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// repository is one of r's, without authentication.
func repository(t testing.TB, r *registry.Registry, name string) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(strings.TrimPrefix(r.PushURL(), "http://") + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	return repo
}

// signature is what stands for one, of a manifest that is given.
func signature(subject digest.Digest) []byte { return []byte("signature of " + subject.String()) }

// sign pushes what stands for signatures of a manifest: an artifact whose subject it is, and one for each of cosign's tags, which is
// found by that and looks like an image, which no node is to unpack. All are returned.
func sign(t testing.TB, r *registry.Registry, name string, subject ocispec.Descriptor) (signatures []digest.Digest) {
	t.Helper()
	repo := repository(t, r, name)
	push := func(mediaType string, text []byte) ocispec.Descriptor {
		desc, err := oras.PushBytes(t.Context(), repo, mediaType, text)
		if err != nil {
			t.Fatal(err)
		}
		return desc
	}
	pack := func(opts oras.PackManifestOptions) ocispec.Descriptor {
		desc, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, "application/vnd.example.signature", opts)
		if err != nil {
			t.Fatal(err)
		}
		return desc
	}
	subject = ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	layer := push(ocispec.MediaTypeImageLayer, signature(subject.Digest))
	config := push(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%q]}}`, layer.Digest))
	artifact := pack(oras.PackManifestOptions{Subject: &subject, Layers: []ocispec.Descriptor{layer}})
	all := []digest.Digest{artifact.Digest}
	for _, tag := range cosignTags(subject.Digest) {
		tagged := pack(oras.PackManifestOptions{ConfigDescriptor: &config, Layers: []ocispec.Descriptor{layer}, ManifestAnnotations: map[string]string{"tag": tag}})
		if err := repo.Tag(t.Context(), tagged, tag); err != nil {
			t.Fatal(err)
		}
		all = append(all, tagged.Digest)
	}
	return all
}

func cosignTag(d digest.Digest) string { return cosignTags(d)[0] }

func cosignTags(d digest.Digest) []string {
	base := "sha256-" + d.Encoded()
	return []string{base + ".sig", base + ".att", base + ".sbom"}
}

// signatures returns what is found of what sign pushed.
func signatures(t testing.TB, r *registry.Registry, name string, subject ocispec.Descriptor) (found []digest.Digest) {
	t.Helper()
	repo := repository(t, r, name)
	if err := repo.Referrers(t.Context(), subject, "", func(descs []ocispec.Descriptor) error {
		for _, desc := range descs {
			found = append(found, desc.Digest)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, tag := range cosignTags(subject.Digest) {
		if tagged, err := repo.Resolve(t.Context(), tag); err == nil {
			found = append(found, tagged.Digest)
		}
	}
	return found
}

// signed is a manifest that was signed, and its signatures.
type signed struct {
	repository string
	subject    ocispec.Descriptor
	signatures []digest.Digest
}

// sign signs all images of the profile, an image of each index, and one of the signatures.
func (p profile) sign(t testing.TB) (all []signed) {
	t.Helper()
	add := func(name string, subject ocispec.Descriptor) {
		all = append(all, signed{name, subject, sign(t, p.public, name, subject)})
	}
	for _, ref := range p.refs {
		img := p.images[ref]
		name, _, _ := strings.Cut(strings.TrimPrefix(ref, p.public.Host()+"/"), ":")
		add(name, img.Descriptor)
		if len(img.Images) > 0 {
			add(name, img.For("linux/amd64").Descriptor)
		}
	}
	first, err := repository(t, p.public, all[0].repository).Resolve(t.Context(), all[0].signatures[0].String())
	if err != nil {
		t.Fatal(err)
	}
	add(all[0].repository, first)
	all[len(all)-1].signatures = all[len(all)-1].signatures[:1] // tags are looked for of what is an image
	return all
}

// TestCopyReferrers looks for signatures beside images that were copied (SEC-38).
func TestCopyReferrers(t *testing.T) {
	p := newProfile(t, 4, registry.Options{})
	all := p.sign(t)
	for _, flags := range [][]string{nil, {"--referrers"}, {"--referrers"}} {
		if out, code := p.copied(t, flags...); code != 0 {
			t.Fatalf("copy %v: got %d\n%s", flags, code, out)
		}
		p.wantSignatures(t, all, flags != nil)
	}
}

// TestCopyReferrersListed copies two artifacts into a registry that has no list of referrers of its own and lets nothing be deleted.
// It takes the first, and not the list for long: the copy ends, and goes on when it is begun again.
func TestCopyReferrersListed(t *testing.T) {
	const atATime = 4 // sendings of a request that fails
	p := newProfile(t, 0, registry.Options{})
	p.own = registry.Start(t, registry.Options{Middleware: registry.Chain(
		registry.On("DELETE", "", -1, registry.Fail(http.StatusMethodNotAllowed)),
		registry.On("PUT", "/v2/*/manifests/sha256-*", 3*atATime, registry.Fail(http.StatusInternalServerError)))})
	write(t, p.config, entry(t, p.public, "")+entry(t, p.own, "")+rule(p.public.Host(), p.own.Host()+"/cluster/mirror"))
	p.add(t, "team/app:1", image.Small("linux/amd64", 910))
	subject := p.images[p.refs[0]].Descriptor
	want := sign(t, p.public, "team/app", subject)
	another, err := oras.PackManifest(t.Context(), repository(t, p.public, "team/app"), oras.PackManifestVersion1_1, "application/vnd.example.sbom",
		oras.PackManifestOptions{Subject: &subject})
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, another.Digest)
	for _, wantCode := range []int{1, 0} {
		if out, code := p.copied(t, "--referrers"); code != wantCode {
			t.Fatalf("copy: got %d, want %d\n%s", code, wantCode, out)
		}
	}
	got := signatures(t, p.own, "cluster/mirror/team/app", subject)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestCopyReferrersUnknown copies between registries that have no list of referrers, and say so in the ways of the field, twice. Signatures
// are found by tags then.
func TestCopyReferrersUnknown(t *testing.T) {
	elsewhere := "https://" + registry.Refusing(t)
	for name, fault := range map[string]registry.Fault{
		"GitHub": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(w, r, elsewhere+"/-/v2"+r.URL.Path, http.StatusSeeOther)
		},
		"Artifactory": registry.Fail(http.StatusNotAcceptable), "Quay": registry.Fail(http.StatusBadRequest),
		"another method": registry.Fail(http.StatusMethodNotAllowed), "not implemented": registry.Fail(http.StatusNotImplemented),
	} {
		t.Run(name, func(t *testing.T) {
			opts := registry.Options{Middleware: registry.On("", "/v2/*/referrers/*", -1, fault)}
			p := newProfile(t, 0, opts)
			p.public = registry.Start(t, opts)
			write(t, p.config, entry(t, p.public, "")+entry(t, p.own, "cluster", login("ann", "s3cret"))+rule(p.public.Host(), p.own.Host()+"/cluster/mirror"))
			p.add(t, "team/app:1", image.Multi(79))
			all := p.sign(t)
			for range 2 {
				if out, code := p.copied(t, "--referrers"); code != 0 {
					t.Fatalf("got %d\n%s", code, out)
				}
				p.wantSignatures(t, all, true)
			}
		})
	}
}

// TestReferrersRefused copies and bundles from registries that do not let signatures be looked for: that is an error, and not an image that
// has none.
func TestReferrersRefused(t *testing.T) {
	for _, path := range []string{"/v2/*/referrers/*", "/v2/*/manifests/sha256-*"} {
		p := newProfile(t, 0, registry.Options{})
		p.public = registry.Start(t, registry.Options{Middleware: registry.On("", path, -1, registry.Fail(http.StatusForbidden))})
		write(t, p.config, entry(t, p.public, "")+entry(t, p.own, "cluster", login("ann", "s3cret"))+rule(p.public.Host(), p.own.Host()+"/cluster/mirror"))
		direct := t.TempDir() + "/berth.toml"
		write(t, direct, entry(t, p.public, ""))
		p.add(t, "team/app:1", image.Small("linux/amd64", 3))
		for _, args := range [][]string{{"copy", "--config", p.config}, {"bundle", "--config", direct, "--out", t.TempDir() + "/app.tar"}} {
			out, problems, code := berth(t, append(args, "--referrers", p.refs[0])...)
			if code != 1 || !strings.Contains(out+problems, "look for ") {
				t.Errorf("%s, %s: got %d\n%s%s\nwant that signatures cannot be looked for", args[0], path, code, out, problems)
			}
		}
	}
}

// TestCopySignatureOfOnesOwn copies a signature to where there is one of whoever fills the registry, under the tag that cosign gives all
// of an image: it is not lost. What the source has beside those that are there is taken, and what is there is not sent.
func TestCopySignatureOfOnesOwn(t *testing.T) {
	p := newProfile(t, 0, registry.Options{})
	p.add(t, "team/app:1", image.Small("linux/amd64", 911))
	subject := p.images[p.refs[0]].Descriptor
	tag := func(r *registry.Registry, name string, signatures ...string) digest.Digest {
		repo := repository(t, r, name)
		var layers []ocispec.Descriptor
		for _, signature := range signatures {
			layer, err := oras.PushBytes(t.Context(), repo, "application/vnd.dev.cosign.simplesigning.v1+json", []byte(signature))
			if err != nil {
				t.Fatal(err)
			}
			layers = append(layers, layer)
		}
		desc, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_0, "application/vnd.oci.image.config.v1+json", oras.PackManifestOptions{Layers: layers})
		if err == nil {
			err = repo.Tag(t.Context(), desc, cosignTag(subject.Digest))
		}
		if err != nil {
			t.Fatal(err)
		}
		return desc.Digest
	}
	const own = "cluster/mirror/team/app"
	want := tag(p.public, "team/app", "theirs")
	for _, step := range []struct {
		name      string
		prepare   func()
		code, put int
	}{
		{"the first time", func() {}, 0, 2},
		{"again", func() {}, 0, 0},
		{"with another of theirs", func() { want = tag(p.public, "team/app", "theirs", "theirs, too") }, 0, 1},
		{"with one of our own", func() { want = tag(p.own, own, "theirs", "ours") }, 1, 0},
	} {
		step.prepare()
		p.own.Log.Reset()
		out, code := p.copied(t, "--referrers")
		got, err := repository(t, p.own, own).Resolve(t.Context(), cosignTag(subject.Digest))
		if code != step.code || err != nil || got.Digest != want || (code == 1) != strings.Contains(out, "has signatures that its source does not have") {
			t.Errorf("%s: got %d and %s %v, want %d and %s\n%s", step.name, code, got.Digest, err, step.code, want, out)
		}
		if put := len(p.own.Log.Match("PUT", "/v2/*/manifests/*")); put != step.put {
			t.Errorf("%s: got %d manifests put, want %d:\n%s", step.name, put, step.put, p.own.Log.Lines())
		}
	}
}

// wantSignatures looks for signatures in the registry of one's own.
func (p profile) wantSignatures(t testing.TB, all []signed, there bool) {
	t.Helper()
	for _, s := range all {
		var want []digest.Digest
		if there {
			want = s.signatures
		}
		if got := signatures(t, p.own, "cluster/mirror/"+s.repository, s.subject); !slices.Equal(got, want) {
			t.Errorf("%s: got signatures %v of %s, want %v", s.repository, got, s.subject.Digest, want)
		}
	}
}

// TestBundleReferrers carries signatures in a bundle of each kind: into a registry, and past nodes, which load the images of it only,
// stock ones as well.
func TestBundleReferrers(t *testing.T) {
	p := newProfile(t, 4, registry.Options{})
	all := p.sign(t)
	dir := t.TempDir()
	direct := dir + "/berth.toml"
	write(t, direct, entry(t, p.public, ""))
	for _, tt := range []struct {
		name, platform string
	}{{"cluster.tar", ""}, {"cluster.tar.zst", ""}, {"cluster/", ""}, {"one.tar", "linux/amd64"}} {
		t.Run(tt.name, func(t *testing.T) {
			p := p
			path := dir + "/" + tt.name
			args := []string{"bundle", "--out", path, "--config", direct, "--referrers", "--platform", tt.platform}
			out, problems, code := berth(t, append(args, p.refs...)...)
			if code != 0 || strings.Count(out, "  4 referrers\n") != 2 || strings.Count(out, "  5 referrers\n") != 1 || strings.Count(out, "  8 referrers\n") != 1 {
				t.Fatalf("bundle: got %d\n%s%s", code, out, problems)
			}
			out, problems, code = berth(t, "bundle", "--check", path, "--output", "json")
			wantSchema(t, "bundle", out)
			if code != 0 || strings.Count(out, `"referrers": 8`) != 1 || strings.Count(out, `"referrers": 4`) != 2 {
				t.Errorf("check: got %d\n%s%s", code, out, problems)
			}
			log := p.boots(t, path)
			for _, level := range []string{"level=warning", "level=error"} {
				if got := log.Lines(level, dir); len(got) > 0 {
					t.Errorf("the node says %q", got)
				}
			}
			p.own = registry.Start(t, registry.Options{Users: ann})
			p.config = filepath.Join(t.TempDir(), "berth.toml")
			write(t, p.config, entry(t, p.own, "cluster", login("ann", "s3cret"))+rule(p.public.Host(), p.own.Host()+"/cluster/mirror"))
			p.public.Log.Reset()
			flags := []string{"--from", path, "--referrers", "--platform", tt.platform}
			if tt.platform != "" {
				p.refs = p.refs[:3] // of the other an index cannot be copied, nor its signature
				all = slices.DeleteFunc(slices.Clone(all), func(s signed) bool { return s.repository == "team0/app3" })
			}
			if out, code := p.copied(t, flags...); code != 0 || strings.Contains(out, "warning: ") || !strings.Contains(out, "  5 referrers\n") {
				t.Fatalf("copy: got %d\n%s", code, out)
			}
			p.wantSignatures(t, all, true)
			if got := p.public.Log.Requests(); len(got) > 0 {
				t.Errorf("the public registry was asked:\n%s", p.public.Log.Lines())
			}
		})
	}
	t.Run("damaged", func(t *testing.T) {
		text, err := os.ReadFile(dir + "/cluster.tar")
		if err != nil {
			t.Fatal(err)
		}
		subject := all[1].subject.Digest
		damaged := bytes.Replace(text, signature(subject), bytes.ToUpper(signature(subject)), 1)
		write(t, dir+"/damaged.tar", string(damaged))
		out, _, code := berth(t, "bundle", "--check", dir+"/damaged.tar")
		want := fmt.Sprintf("  %s, which refers to %s: blob %s: mismatched digest", all[1].signatures[0], subject, digest.FromBytes(signature(subject)))
		if code != 1 || !strings.Contains(out, want) || strings.Count(out, "good  ") != 3 {
			t.Errorf("got %d\n%s\nwant %q", code, out, want)
		}
	})
	for _, flags := range [][]string{nil, {"--local"}, {"--local", "--digests"}} {
		t.Run(fmt.Sprint("stock import ", flags), func(t *testing.T) {
			d := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock)})
			d.Ctr(t, append(append([]string{"images", "import"}, flags...), dir+"/cluster.tar")...)
			got := strings.Fields(d.Ctr(t, "images", "ls", "-q"))
			got = slices.DeleteFunc(got, func(name string) bool {
				return strings.HasPrefix(name, "import-") && slices.Contains(flags, "--digests")
			})
			want := slices.Sorted(slices.Values(p.refs))
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
