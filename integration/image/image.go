// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of Docker's second schema.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Config says what an image of one platform is made of.
type Config struct {
	Platform    string // such as "linux/arm64"; "linux/amd64" by default
	Layers      []Layer
	Entrypoint  []string
	Cmd         []string
	Env         []string
	Labels      map[string]string // of the image's config
	Annotations map[string]string // of the manifest
	Docker      bool              // media types of Docker's second schema in place of OCI's
}

// Image is an image of one platform, or an index of such images.
type Image struct {
	ocispec.Descriptor               // of the manifest or the index
	Content            []byte        // the manifest or the index itself
	ConfigDigest       digest.Digest // the image's ID; empty for an index
	Layers             []Layer       // none for an index
	Images             []*Image      // of an index

	config []byte
}

// New makes an image of one platform.
func New(c Config) *Image {
	types := [...]string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip}
	if c.Docker {
		types = [...]string{dockerManifest, dockerConfig, dockerLayer}
	}
	if c.Platform == "" {
		c.Platform = "linux/amd64"
	}
	platform := parsePlatform(c.Platform)
	cfg := ocispec.Image{Platform: platform, Config: ocispec.ImageConfig{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, Labels: c.Labels,
	}}
	cfg.RootFS.Type = "layers"
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: types[0], Annotations: c.Annotations}
	for _, l := range c.Layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.DiffID)
		manifest.Layers = append(manifest.Layers,
			ocispec.Descriptor{MediaType: types[2], Digest: l.Digest, Size: int64(len(l.Blob))})
	}
	config := encode(cfg)
	manifest.Config = ocispec.Descriptor{MediaType: types[1], Digest: digest.FromBytes(config), Size: int64(len(config))}
	img := fromContent(types[0], encode(manifest))
	img.Platform = &platform
	img.ConfigDigest, img.config, img.Layers = manifest.Config.Digest, config, c.Layers
	return img
}

// Index makes an index of images of several platforms: a Docker manifest list if the first image is Docker's.
func Index(images ...*Image) *Image {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	if images[0].MediaType == dockerManifest {
		index.MediaType = dockerList
	}
	for _, img := range images {
		index.Manifests = append(index.Manifests, img.Descriptor)
	}
	img := fromContent(index.MediaType, encode(index))
	img.Images = images
	return img
}

// For returns the image of the given platform: img itself, or one of an index; nil if there is none.
func (img *Image) For(platform string) *Image {
	if img.Images == nil {
		if p := *img.Platform; p.OS+"/"+p.Architecture == platform {
			return img
		}
		return nil
	}
	for _, one := range img.Images {
		if found := one.For(platform); found != nil {
			return found
		}
	}
	return nil
}

// Bytes is the number of bytes of all blobs of an image of one platform, its manifest and config included.
func (img *Image) Bytes() int64 {
	n := int64(len(img.Content) + len(img.config))
	for _, l := range img.Layers {
		n += int64(len(l.Blob))
	}
	return n
}

// Small returns an image of one layer with a few files drawn from seed: two different seeds, two different images.
func Small(platform string, seed uint64) *Image {
	return New(Config{Platform: platform, Layers: []Layer{NewLayer(
		Random("etc/data", seed, 4096),
		Random("usr/share/more/data", seed+1, 20000),
		File{Path: "usr/bin/run", Mode: 0o755, Data: []byte("#!/usr/bin/run\n")},
		File{Path: "usr/data", Mode: modeLink, Data: []byte("share/more/data")},
	)}})
}

// Multi returns an index of two [Small] images, linux/amd64 and linux/arm64, that share nothing.
func Multi(seed uint64) *Image {
	return Index(Small("linux/amd64", seed), Small("linux/arm64", seed+1000))
}

// Pause returns an image whose only process waits to be stopped, for the sandbox of a pod.
func Pause(tb testing.TB) *Image {
	tb.Helper()
	return New(Config{Layers: []Layer{NewLayer(Program(tb))}, Entrypoint: []string{"/probe", "pause"}})
}

// Hello returns an image that prints "hello " and words, and ends.
func Hello(tb testing.TB, words ...string) *Image {
	tb.Helper()
	return New(Config{
		Layers:     []Layer{NewLayer(Program(tb)), NewLayer(File{Path: "etc/words", Data: []byte(strings.Join(words, " "))})},
		Entrypoint: []string{"/probe", "hello"}, Cmd: words,
	})
}

func fromContent(mediaType string, content []byte) *Image {
	return &Image{Content: content, Descriptor: ocispec.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content)),
	}}
}

func parsePlatform(s string) ocispec.Platform {
	os, arch, _ := strings.Cut(s, "/")
	arch, variant, _ := strings.Cut(arch, "/")
	return ocispec.Platform{OS: os, Architecture: arch, Variant: variant}
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	must(err)
	return data
}
