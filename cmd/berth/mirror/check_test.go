// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// TestPage asks what stands before a registry and answers everything with a text of its own: no image is there, and none is bundled.
func TestPage(t *testing.T) {
	for mediaType, want := range map[string]string{
		"text/html":                "got text/html and not a manifest",
		"application/json":         "got application/json and not a manifest",
		"application/octet-stream": "got application/octet-stream and not a manifest",
		"application/vnd.docker.distribution.manifest.v1+prettyjws": "schema 1 image manifests are no longer supported",
	} {
		authority := registrytest.NewAuthority(t)
		server := registrytest.Serve(t, authority.Server(t), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			fmt.Fprint(w, `{"message":"log in first"}`)
		}))
		m := mirrorOf(t, fmt.Sprintf("[[registries]]\ndomain = %q\ncertificates = [%q]\n", server.Host, authority.PEM))
		for _, found := range m.Check(t.Context(), []string{"quay.io/app:1"}) {
			if found.Target != nil || len(found.Failures) != 1 || !strings.Contains(found.Failures[0].Err.Error(), want) {
				t.Errorf("%s: check: got %v %v, want %q", mediaType, found.Target, found.Failures, want)
			}
		}
		layout, err := NewLayout(filepath.Join(t.TempDir(), "bundle.tar"))
		if err != nil {
			t.Fatal(err)
		}
		defer layout.Discard()
		bundled, err := m.Bundle(t.Context(), []string{"quay.io/app:1"}, layout, BundleOptions{}, nil)
		if err != nil || bundled[0].Err == nil || !strings.Contains(bundled[0].Err.Error(), want) {
			t.Errorf("%s: bundle: got %v %v, want %q", mediaType, bundled[0].Err, err, want)
		}
	}
}

// TestChoose has indexes with several manifests for a platform, as nodes choose among them, in either order.
func TestChoose(t *testing.T) {
	for _, tt := range []struct{ platform, better, worse string }{
		{"linux/arm/v7", "linux/arm/v7", "linux/arm/v6"},
		{"linux/arm64", "linux/arm64", "linux/arm/v7"},
		{"linux/amd64/v3", "linux/amd64/v2", "linux/amd64"},
		{"linux/amd64", "linux/amd64", ""},
	} {
		desc := func(platform string) (desc ocispec.Descriptor) {
			if platform != "" {
				p := platforms.MustParse(platform)
				desc.Platform = &p
			}
			desc.Digest = digest.FromString(platform)
			return desc
		}
		m := New(nil, platforms.MustParse(tt.platform))
		better, worse := desc(tt.better), desc(tt.worse)
		for _, index := range []ocispec.Index{listing(better, worse), listing(worse, better)} {
			if got, err := m.choose(index); err != nil || got.Digest != better.Digest {
				t.Errorf("for %s: got %v %v, want %s and not %q", tt.platform, got.Platform, err, tt.better, tt.worse)
			}
		}
	}
}
