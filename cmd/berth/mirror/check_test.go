// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

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
