// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestWrongContent has a target that serves something else than was asked for. Nothing is stored, and the next target
// is asked (SEC-31, SEC-33).
func TestWrongContent(t *testing.T) {
	daemon.RequireRoot(t)
	good, evil := image.Small("linux/amd64", 160), image.Small("linux/amd64", 161)
	byDigest := "quay.io/a@" + good.Digest.String()
	index := image.Index(good)
	const manifests, everything = "*/manifests/*", "*" // a server that wants people to log in answers everything so
	for _, tc := range []struct {
		name, ref string
		requests  string // that are met with the fault
		serve     registry.Fault
		want      string
	}{
		{"another manifest for a digest", byDigest, manifests, answer(evil.Content, evil.MediaType, good.Digest), "unexpected commit"},
		{"a manifest that is cut", byDigest, manifests, answer(good.Content[:100], good.MediaType, good.Digest), "unexpected commit"},
		{"a digest header that lies", "quay.io/a:1", manifests, answer(evil.Content, evil.MediaType, good.Digest), "unexpected commit"},
		{"a web page", "quay.io/a:1", everything, answer([]byte("<html>Log in</html>"), "text/html; charset=utf-8", ""), "got text/html and not a manifest"},
		{"nothing", "quay.io/a:1", manifests, answer(nil, good.MediaType, ""), "got nothing and not a manifest"},
		{"no JSON", "quay.io/a:1", manifests, answer([]byte("<html>Log in</html>"), good.MediaType, ""), "invalid character '<'"},
		{"a digest header of another algorithm", "quay.io/a:1", manifests, answer(good.Content, good.MediaType, "md5:d41d8cd98f00b204e9800998ecf8427e"), ""},
		{"an index called a manifest", "quay.io/a:1", manifests, answer(index.Content, good.MediaType, index.Digest), "expected manifest but found index"},
		{"a manifest called an index", "quay.io/a:1", manifests, answer(good.Content, index.MediaType, good.Digest), "expected index but found manifest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := registry.Start(t, faulty(tc.requests, tc.serve))
			for _, img := range []*image.Image{good, evil, index} {
				img.Push(t, bad, "bad/a:1")
			}
			next := registry.Start(t, registry.Options{})
			n := startNode(t, entry(t, bad, "")+rule("*", bad.Host()+"/bad")+"path = \"rest\"\n", daemon.Options{})
			err := pullTransfer(t, n.Daemon, tc.ref)
			wantError(t, err, "pull "+tc.ref, "from "+bad.Host()+"/bad/a", tc.want)
			checkNothingLeft(t, n)

			good.Push(t, next, "good/a:1")
			n.configure(t, "registry.toml", entry(t, bad, "")+entry(t, next, "")+rule("*", bad.Host()+"/bad", next.Host()+"/good")+"path = \"rest\"\n")
			n.Restart(t, nil)
			if err := pullTransfer(t, n.Daemon, tc.ref); err != nil {
				t.Fatalf("with a second target: %v", err)
			}
			if err := good.Compare(n.Rootfs(t, "go", tc.ref)); err != nil {
				t.Error(err)
			}
		})
	}
}

// answer serves one body under a media type and a digest, whatever is asked for.
func answer(body []byte, mediaType string, dgst digest.Digest) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if dgst != "" {
			w.Header().Set("Docker-Content-Digest", dgst.String())
		}
		if r.Method == http.MethodGet {
			_, _ = w.Write(body)
		}
	}
}

// TestDescriptorURLs: addresses that an image brings along are not asked (SEC-36). With nothing configured they are,
// as by stock, which shows that the image would lead there.
func TestDescriptorURLs(t *testing.T) {
	daemon.RequireRoot(t)
	elsewhere := registry.Start(t, registry.Options{Plain: true})
	img := image.Small("linux/amd64", 162)
	var manifest ocispec.Manifest
	if err := json.Unmarshal(img.Content, &manifest); err != nil {
		t.Fatal(err)
	}
	for i := range manifest.Layers {
		manifest.Layers[i].URLs = []string{elsewhere.URL() + "/v2/foreign/blobs/" + manifest.Layers[i].Digest.String()}
	}
	manifest.Config.URLs = []string{elsewhere.URL() + "/v2/foreign/blobs/" + manifest.Config.Digest.String()}
	content, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	foreign := &image.Image{Content: content, Descriptor: ocispec.Descriptor{
		MediaType: img.MediaType, Digest: digest.FromBytes(content), Size: int64(len(content)),
	}}
	r := registry.Start(t, faulty("*/manifests/*", serve(foreign)))
	for _, path := range []string{"p/quay.io/a:1", "a:1"} {
		img.PushTo(t.Context(), image.Remote{URL: r.PushURL()}, path)
	}
	n := startNode(t, entry(t, r, "p"), daemon.Options{})
	if err := pullCtr(t, n.Daemon, "quay.io/a:1"); err != nil {
		t.Error(err)
	}
	if got := elsewhere.Log.Requests(); len(got) != 0 {
		t.Errorf("got requests %v of the image's own addresses, want none", got)
	}
	if err := img.Compare(n.Rootfs(t, "default", "quay.io/a:1")); err != nil {
		t.Error(err)
	}
	// A rule that leaves a name alone does not open this way either.
	hosts := t.TempDir()
	registry.WriteHosts(t, hosts, r.Host(), r.Mirror(t))
	pull := pullCtrWith("--hosts-dir", hosts)
	n.configure(t, "registry.toml", entry(t, r, "p")+rule(r.Host(), "source"))
	n.Restart(t, nil)
	elsewhere.Log.Reset()
	n.Ctr(t, "images", "rm", "--sync", "quay.io/a:1")
	if err := pull(t, n.Daemon, r.Host()+"/a:1"); err != nil {
		t.Error(err)
	}
	if got := elsewhere.Log.Requests(); len(got) != 0 {
		t.Errorf("got requests %v with a rule for the source, want none", got)
	}

	stocklike := startNode(t, "", daemon.Options{})
	_ = pull(t, stocklike.Daemon, r.Host()+"/a:1")
	if len(elsewhere.Log.Requests()) == 0 {
		t.Error("got no request of the image's own addresses with nothing configured: the image does not show anything")
	}
}
