// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// mounting meets requests to mount a blob with a fault.
func mounting(fault registry.Fault) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("mount") {
				fault(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// TestCopyWithin copies from one part of a registry to another: every blob is mounted, and none is read or sent. A registry that
// mounts nothing from there is sent what two images share once. What comes from a bundle is not looked for there.
func TestCopyWithin(t *testing.T) {
	base := image.NewLayer(image.Random("base", 78, 64<<10))
	var named []image.Named
	for i := range 2 {
		own := image.NewLayer(image.Random("own", uint64(79+i), 1<<10))
		named = append(named, image.New(image.Config{Layers: []image.Layer{base, own}}).Name(fmt.Sprintf("staging/team/app-%d:1", i)))
	}
	for _, tt := range []struct {
		name       string
		middleware func(http.Handler) http.Handler
		bundle     bool
		mounts     int // requests to mount from where the images come from
		uploads    int // two configurations, two layers and what both share
	}{
		{"mounted", nil, false, 5, 0},
		{"not mounted", mounting(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasPrefix(r.URL.Query().Get("from"), "staging/") {
				time.Sleep(300 * time.Millisecond) // both images want what they share by now
				r.URL.RawQuery = ""
			}
			next.ServeHTTP(w, r)
		}), false, 5, 5},
		{"from a bundle", nil, true, 0, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			own := registry.Start(t, registry.Options{Users: ann, Middleware: tt.middleware})
			config := filepath.Join(t.TempDir(), "berth.toml")
			write(t, config, entry(t, own, "", login("ann", "s3cret"))+rule(own.Host()+"/staging", own.Host()+"/production"))
			var refs []string
			var whole []image.Named
			for _, i := range named {
				ref := own.Host() + "/" + i.Names[0]
				refs, whole = append(refs, ref), append(whole, i.Image.Name(ref))
				if !tt.bundle {
					i.Push(t, own, i.Names[0])
				}
			}
			own.Log.Reset()
			args := []string{"copy", "--config", config}
			if tt.bundle {
				args = append(args, "--from", image.WriteFile(t, filepath.Join(t.TempDir(), "bundle.tar"), image.Tar(image.OCI(whole))))
			}
			out, problems, code := berth(t, append(args, refs...)...)
			if code != 0 || !strings.Contains(out, " 2 copied, ") {
				t.Errorf("got %d\n%s%s", code, out, problems)
			}
			mounts := 0
			for _, r := range own.Log.Match(http.MethodPost, "/v2/*/blobs/uploads/*") {
				if strings.HasPrefix(r.Query.Get("from"), "staging/") {
					mounts++
				}
			}
			read, sent := len(own.Log.Match(http.MethodGet, "/v2/*/blobs/*")), len(own.Log.Match(http.MethodPut, "/v2/*/blobs/uploads/*"))
			if mounts != tt.mounts || sent != tt.uploads || !tt.bundle && read != tt.uploads {
				t.Errorf("got %d mounts, %d blobs read, %d sent; want %d and %d:\n%s", mounts, read, sent, tt.mounts, tt.uploads, own.Log.Lines())
			}
			if out, problems, code := berth(t, append([]string{"check", "--config", config}, refs...)...); code != 0 {
				t.Errorf("check: got %d\n%s%s", code, out, problems)
			}
		})
	}
}

// TestCopyMountLost copies into registries that have no time for the first request to mount each blob, or lose its connection: what can be
// mounted is not sent.
func TestCopyMountLost(t *testing.T) {
	for name, first := range map[string]registry.Fault{
		"lost": func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
		"503":  registry.Fail(http.StatusServiceUnavailable),
		"429":  registry.Fail(http.StatusTooManyRequests),
	} {
		t.Run(name, func(t *testing.T) {
			var seen sync.Map
			p := newProfile(t, 6, registry.Options{HTTP1: true, Middleware: mounting(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if _, again := seen.LoadOrStore(r.URL.String(), true); !again {
					first(w, r, next)
					return
				}
				next.ServeHTTP(w, r)
			})})
			if out, code := p.copied(t); code != 0 {
				t.Errorf("got %d\n%s", code, out)
			}
			wantSentOnce(t, p.own)
		})
	}
}
