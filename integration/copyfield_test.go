// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/registry"
)

// TestCopyNotKept copies to what is no registry, or none that keeps what it is sent: nothing is there, and nothing says so.
func TestCopyNotKept(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>Log in</html>"))
	}
	for _, tt := range []struct {
		name       string
		middleware func(http.Handler) http.Handler
		want       string
	}{
		{"a page", registry.On("", "/v2/cluster/*", -1, page), "got text/html and not a manifest; is this the address of a registry, "},
		{"a page after all", registry.On("PUT", "/v2/*/manifests/*", -1, page), "the registry said that it took it, and does not have it: "},
		{"nothing", registry.On("PUT", "/v2/*/manifests/*", -1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusCreated)
		}), "the registry said that it took it, and does not have it: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProfile(t, 2, registry.Options{Middleware: tt.middleware})
			if out, code := p.copied(t); code != 1 || strings.Count(out, tt.want) != 2 || !strings.Contains(out, " 0 copied, 0 present, ") {
				t.Errorf("got %d\n%s\nwant %q", code, out, tt.want)
			}
		})
	}
}
