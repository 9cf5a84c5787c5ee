// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// B26: an index without the platform that CRI wants is refused with that platform and those that there are. For another client
// it is stored, as stock containerd does.
func TestNoPlatform(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("platform", 4<<10)
	index := func(platforms ...string) []byte {
		i := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
		for _, p := range platforms {
			desc := registrytest.Descriptor(ocispec.MediaTypeImageManifest, content.Manifest)
			desc.Platform = platformOf(t, p)
			i.Manifests = append(i.Manifests, desc)
		}
		text, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	own := platforms.Format(platforms.DefaultSpec())
	var many []string
	for i := range 30 {
		many = append(many, fmt.Sprint("linux/other", i))
	}
	for _, tt := range []struct {
		name, namespace string
		index           []byte
		want            string // "" is pulled
	}{
		{"others", asCRI, index("linux/s390x", "windows/amd64", "linux/s390x", "unknown/unknown"), "(available: linux/s390x, windows/amd64)"},
		{"none", asCRI, index(), "(available: none)"},
		{"as many as are named", asCRI, index(many[:20]...), "linux/other19)"},
		{"many", asCRI, index(many...), "linux/other19 and others)"},
		{"its own", asCRI, index("linux/s390x", own), ""},
		{"one that is not known", asCRI, index("linux/s390x", ""), ""},
		{"others, of another client", "k8s.io", index("linux/s390x"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			whole := registrytest.Registry{Image: content}
			s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				digested := digest.FromBytes(tt.index).String()
				switch r.URL.Path {
				case "/v2/mirror/org/app/manifests/1", "/v2/mirror/org/app/manifests/" + digested:
					w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
					w.Header().Set("Content-Length", fmt.Sprint(len(tt.index)))
					w.Header().Set("Docker-Content-Digest", digested)
					_, _ = w.Write(tt.index)
				default:
					whole.ServeHTTP(w, r)
				}
			}))
			n := newNode(t, s.registry()+from(s))
			to := image.NewStore(ref, image.WithPlatforms(platforms.DefaultSpec()), image.WithUnpack(platforms.DefaultSpec(), "native"))
			err := n.pullTo(t.Context(), tt.namespace, ref, to)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, errdefs.ErrNotFound, "no match for platform "+platforms.FormatAll(platforms.DefaultSpec())+" in manifest "+digest.FromBytes(tt.index).String()+" ", tt.want)
		})
	}
}

// platformOf parses a platform, which may be one that nothing runs on; "" is none.
func platformOf(t testing.TB, text string) *ocispec.Platform {
	t.Helper()
	if text == "" {
		return nil
	}
	p, err := platforms.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}
