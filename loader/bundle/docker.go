// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const manifestFile = "manifest.json"

// dockerImage is an element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags tags
	Layers   layerNames
}

// listDocker lists the images of manifest.json, and makes their manifests.
func (b *Bundle) listDocker(ctx context.Context) error {
	f, ok := b.files.find(manifestFile)
	if !ok {
		return fmt.Errorf("neither docker-archive (%s) nor OCI layout (%s)%s", manifestFile, layoutFile, b.nested())
	}
	data, err := b.readJSON(ctx, f)
	if err != nil {
		return err
	}
	var valid present
	if err := parseJSON(manifestFile, data, &valid); err != nil {
		return err
	}
	for _, f := range b.files.all() {
		if f.link != "" {
			_, err := b.follow(f)
			if err := b.refuse(err); err != nil {
				return err
			}
		}
	}
	made := 0
	err = eachElement(data, func(element []byte) error {
		var image dockerImage
		if err := json.Unmarshal(element, &image); err != nil {
			return err
		}
		size, err := b.addDocker(ctx, image)
		if made += size; err == nil && made > maxMade {
			err = fmt.Errorf("manifests come to more than %d MiB", maxMade>>20)
		}
		return err
	})
	switch {
	case errors.Is(err, errNoList):
		return fmt.Errorf("%s %w", manifestFile, err)
	case err != nil:
		return fmt.Errorf("%s: %w", manifestFile, err)
	case len(b.images)+len(b.problems) == 0:
		return fmt.Errorf("%s lists no image", manifestFile)
	}
	return nil
}

// nested says where the files are that were looked for, if someone packed the directory that they are in.
func (b *Bundle) nested() string {
	for _, f := range b.files.all() {
		if base := path.Base(f.name); base == layoutFile || base == manifestFile {
			return fmt.Sprintf("; there is %q: pack the content of that directory, not the directory", f.name)
		}
	}
	return ""
}

// addDocker adds an image under all its tags, and returns the size of the manifest that was made for it. What is wrong with
// the image alone is noted.
func (b *Bundle) addDocker(ctx context.Context, image dockerImage) (int, error) {
	called := image.Config
	if len(image.RepoTags) > 0 {
		called = image.RepoTags[0]
	}
	desc, err := b.makeManifest(ctx, image)
	if err != nil {
		return 0, b.refuse(fmt.Errorf("image %.300s: %w", called, err))
	}
	if len(image.RepoTags) == 0 {
		return int(desc.Size), b.addImage(Image{Target: desc})
	}
	for _, tag := range image.RepoTags {
		named, err := reference.ParseDockerRef(tag)
		if err != nil {
			if err := b.refuse(fmt.Errorf("normalize image ref %.300q: %w", tag, err)); err != nil {
				return 0, err
			}
			continue
		}
		if err := b.refuse(b.addImage(Image{Name: named.String(), Target: desc})); err != nil {
			return 0, err
		}
	}
	return int(desc.Size), nil
}

// makeManifest makes the manifest that containerd's importer makes (core/images/archive/importer.go, ImportIndex),
// down to the order of its keys: its digest is the digest of the image.
func (b *Bundle) makeManifest(ctx context.Context, image dockerImage) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	f, err := b.lookup(image.Config)
	if err != nil {
		return none, fmt.Errorf("image config %w", err)
	}
	data, err := b.readJSON(ctx, f)
	if err != nil {
		return none, err
	}
	var cfg config
	if err := parseJSON(f.name, data, &cfg); err != nil {
		return none, err
	}
	diffIDs := cfg.RootFS.DiffIDs
	switch {
	case len(image.Layers) != len(diffIDs):
		return none, fmt.Errorf("number of layers and diffIDs don't match: %d != %d", len(image.Layers), len(diffIDs))
	}
	manifest := struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		Config        ocispec.Descriptor   `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
	}{
		SchemaVersion: 2,
		MediaType:     images.MediaTypeDockerSchema2Manifest,
		Config:        ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2Config, Digest: digest.FromBytes(data), Size: f.size},
		Layers:        make([]ocispec.Descriptor, len(image.Layers)),
	}
	if err := b.addBlob(manifest.Config.Digest, f); err != nil {
		return none, err
	}
	for i, name := range image.Layers {
		if manifest.Layers[i], err = b.layer(ctx, name, diffIDs[i]); err != nil {
			return none, fmt.Errorf("layer %w", err)
		}
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return none, err
	}
	desc := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	if _, ok := b.blobs[desc.Digest]; !ok {
		b.blobs[desc.Digest] = &blob{data: text, size: desc.Size}
		b.made = append(b.made, desc.Digest)
	}
	p := platforms.Normalize(*cfg.spec())
	desc.Platform = &p
	return desc, nil
}

// layer describes a layer as the importer does, but hashes it only if nothing in the bundle says its digest: that of
// an uncompressed layer is its diffID.
func (b *Bundle) layer(ctx context.Context, name string, diffID digest.Digest) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	f, err := b.lookup(name)
	if err != nil {
		return none, err
	}
	if f.unusable != "" {
		return none, fmt.Errorf("%q %s", f.name, f.unusable)
	}
	if err := diffID.Validate(); err != nil {
		return none, fmt.Errorf("%q: invalid diffID %.128q: %w", f.name, diffID.String(), err)
	}
	if err := b.sniffLayer(ctx, f); err != nil {
		return none, inEntry(f.name, err)
	}
	desc := ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2LayerGzip, Digest: digestInName(f.name), Size: f.size}
	if f.packed == compression.Uncompressed {
		desc.MediaType, desc.Digest = images.MediaTypeDockerSchema2Layer, diffID
	}
	// A compressed layer may carry its diffID in its name. One that is not SHA-256 is not what the importer computes.
	if desc.Digest == "" || desc.Digest.Algorithm() != digest.SHA256 || desc.Digest == diffID && f.packed != compression.Uncompressed {
		if desc.Digest, err = b.hashFile(ctx, f); err != nil {
			return none, inEntry(f.name, err)
		}
	}
	return desc, b.addBlob(desc.Digest, f)
}

// sniffLayer looks how f is compressed.
func (b *Bundle) sniffLayer(ctx context.Context, f *file) error {
	if f.sniffed {
		return nil
	}
	r, err := b.files.open(ctx, f)
	if err != nil {
		return err
	}
	defer r.Close()
	head := make([]byte, min(f.size, 10))
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	f.packed, f.sniffed = compression.DetectCompression(head), true
	return nil
}

// hashFile returns the digest of f, and remembers it.
func (b *Bundle) hashFile(ctx context.Context, f *file) (digest.Digest, error) {
	b.hashed = true
	if f.digest != "" {
		return f.digest, nil
	}
	r, err := b.files.open(ctx, f)
	if err != nil {
		return "", err
	}
	defer r.Close()
	f.digest, err = hash(ctx, digest.SHA256, r)
	return f.digest, err
}

// addBlob records that f holds dgst.
func (b *Bundle) addBlob(dgst digest.Digest, f *file) error {
	if had, ok := b.byFile[f]; ok && had != dgst {
		return fmt.Errorf("%q is %s in one place and %s in another", f.name, had, dgst)
	}
	b.byFile[f] = dgst
	had, ok := b.blobs[dgst]
	if !ok {
		b.blobs[dgst] = &blob{file: f, size: f.size}
		return nil
	}
	if had.size != f.size {
		return fmt.Errorf("%q has %d bytes, but %s has %d elsewhere in the bundle", f.name, f.size, dgst, had.size)
	}
	return nil
}

// lookup finds the entry that manifest.json names, through symbolic links.
func (b *Bundle) lookup(name string) (*file, error) {
	f, ok := b.files.find(path.Clean(name))
	if !ok {
		return nil, fmt.Errorf("%.300q not found", name)
	}
	return b.follow(f)
}

// follow returns what f is a symbolic link to, or f. As in the importer a target is a name in the archive.
func (b *Bundle) follow(f *file) (*file, error) {
	first := f
	for range maxDepth {
		if f.link == "" {
			return f, nil
		}
		target := path.Join(path.Dir(f.name), f.link)
		if path.IsAbs(f.link) || target == ".." || strings.HasPrefix(target, "../") {
			return nil, fmt.Errorf("symlink layer %.300q points out of the archive, to %.300q", f.name, f.link)
		}
		next, ok := b.files.find(target)
		if !ok {
			return nil, fmt.Errorf("no target for symlink layer from %.300q to %.300q", f.name, target)
		}
		f = next
	}
	return nil, fmt.Errorf("symlink layer %.300q: more than %d links one after the other", first.name, maxDepth)
}

// digestName matches the names of layers that carry the digest of what is in them: those of go-containerregistry (crane,
// kaniko, ko), whose .tar.gz may also be uncompressed, and those in the blobs of an OCI layout.
var digestName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?:.*/)?(?:sha256:)?([0-9a-f]{64})\.tar\.gz$|^blobs/sha256/([0-9a-f]{64})$`)
})

// digestInName returns the digest in the name of a compressed layer, or "".
func digestInName(name string) digest.Digest {
	m := digestName().FindStringSubmatch(name)
	if m == nil {
		return ""
	}
	return digest.NewDigestFromEncoded(digest.SHA256, m[1]+m[2])
}
