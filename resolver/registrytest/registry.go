// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image of one platform, which every repository and tag of a [Registry] has.
type Image struct {
	Manifest, Config, Layer []byte
}

// NewImage makes an image whose content follows from seed, with a layer of size bytes. Its layer is not an archive:
// such an image can be fetched and stored, and not unpacked.
func NewImage(seed string, size int) Image {
	var key [32]byte
	copy(key[:], seed)
	layer := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(layer)
	config := marshal(ocispec.Image{
		Author:   seed,
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	return Image{Config: config, Layer: layer, Manifest: marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    Descriptor(ocispec.MediaTypeImageConfig, config),
		Layers:    []ocispec.Descriptor{Descriptor(ocispec.MediaTypeImageLayer, layer)},
	})}
}

// With returns the image with its manifest changed.
func (i Image) With(change func(*ocispec.Manifest)) Image {
	var manifest ocispec.Manifest
	if err := json.Unmarshal(i.Manifest, &manifest); err != nil {
		panic(err)
	}
	change(&manifest)
	i.Manifest = marshal(manifest)
	return i
}

// Digest returns the digest of the image's manifest.
func (i Image) Digest() digest.Digest { return digest.FromBytes(i.Manifest) }

// LayerPath is the end of the layer's URL.
func (i Image) LayerPath() string { return "/blobs/" + digest.FromBytes(i.Layer).String() }

// Descriptor describes content.
func Descriptor(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// Registry serves one image under every name and tag, without asking who wants it.
type Registry struct{ Image Image }

func (g Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	name, what, ok := cut(strings.TrimPrefix(r.URL.Path, "/v2/"))
	if !ok || name == "" {
		http.NotFound(w, r)
		return
	}
	for _, content := range [][]byte{g.Image.Manifest, g.Image.Config, g.Image.Layer} {
		d := digest.FromBytes(content).String()
		isManifest := &content[0] == &g.Image.Manifest[0]
		switch {
		case isManifest && (what == "manifests/"+d || strings.HasPrefix(what, "manifests/") && !strings.Contains(what, "sha256:")):
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		case !isManifest && what == "blobs/"+d:
			w.Header().Set("Content-Type", "application/octet-stream")
		default:
			continue
		}
		w.Header().Set("Docker-Content-Digest", d)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		return
	}
	Fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
}

// cut splits a path below /v2/ into a repository's name and what is asked of it.
func cut(path string) (name, what string, ok bool) {
	i := max(strings.LastIndex(path, "/manifests/"), strings.LastIndex(path, "/blobs/"))
	if i <= 0 {
		return "", "", false
	}
	return path[:i], path[i+1:], true
}

// Fail answers with an error in the registries' form.
func Fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// Redirect sends requests whose path contains part to another server, at the same path.
func Redirect(part, base, query string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, part) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Location", base+r.URL.Path+query)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
}
