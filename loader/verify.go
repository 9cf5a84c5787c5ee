// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/loader/unpacked"
)

// Damage is something that is not on the disk as it should be: files of a layer that was unpacked, or a blob.
type Damage struct {
	Namespace, Image string
	Layer            digest.Digest // that was unpacked
	Files            []string      // that are damaged, by their paths in the layer
	Blob             digest.Digest // that is damaged itself; Layer and Files are empty then
	Mended           bool
	Err              error // why it could not be looked at, or not be mended
}

func (d Damage) String() string {
	switch {
	case d.Blob != "" && d.Mended:
		return fmt.Sprintf("image %s: blob %s was damaged; it was written again from its bundle", d.Image, d.Blob)
	case d.Blob != "":
		return fmt.Sprintf("image %s: %v", d.Image, d.Err)
	case d.Err != nil && len(d.Files) == 0:
		return fmt.Sprintf("image %s: layer %s cannot be verified: %v", d.Image, d.Layer, d.Err)
	case d.Mended:
		return fmt.Sprintf("image %s: layer %s had %d damaged files, such as %s; they were unpacked again", d.Image, d.Layer, len(d.Files), d.Files[0])
	}
	return fmt.Sprintf("image %s: layer %s has %d damaged files, such as %s: %v", d.Image, d.Layer, len(d.Files), d.Files[0], d.Err)
}

// Verify compares what is unpacked of every image of every namespace with its layers, and mends what is damaged. Unless all is
// asked for, a layer that was synced is only compared if something about it is suspicious. All is also every blob, which is
// compared with its digest: that reads the whole content store once, one blob at a time.
func (l *Loader) Verify(ctx context.Context, all bool) (_ []Damage, err error) {
	l.verifying.Lock()
	defer l.verifying.Unlock()
	defer l.recovered(ctx, func(panicked error) { err = panicked })
	spaces, err := l.Namespaces(ctx)
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	v := &verification{loader: l, all: all, seen: map[string]bool{}, hashed: map[digest.Digest]bool{}}
	for _, namespace := range spaces {
		ctx := namespaces.WithNamespace(ctx, namespace)
		if err := l.looks.EndOthers(ctx, l.Snapshots); err != nil {
			log.G(ctx).WithError(err).WithField("namespace", namespace).Warn("remove what is left of looks at what is unpacked")
		}
		list, err := l.Images.List(ctx)
		if err != nil {
			return v.found, fmt.Errorf("list images: %w", err)
		}
		for _, image := range list {
			if err := ctx.Err(); err != nil {
				return v.found, err
			}
			v.image(ctx, namespace, image)
		}
	}
	l.damaged = map[string]bool{}
	for _, d := range v.found {
		l.damaged[d.String()] = !d.Mended
	}
	return v.found, nil
}

// verification is one look at everything that is unpacked.
type verification struct {
	loader *Loader
	all    bool
	seen   map[string]bool        // chains that were looked at, by namespace
	hashed map[digest.Digest]bool // blobs that were
	found  []Damage
}

func (v *verification) image(ctx context.Context, namespace string, image images.Image) {
	if v.all {
		v.blobs(ctx, namespace, image)
	}
	manifest, err := images.Manifest(ctx, v.loader.Content, image.Target, v.loader.catalog.machine)
	if err != nil {
		return // not an image for this machine, or not whole: that is another matter
	}
	text, err := content.ReadBlob(ctx, v.loader.Content, manifest.Config)
	var config ocispec.Image
	if err != nil || json.Unmarshal(text, &config) != nil || len(config.RootFS.DiffIDs) != len(manifest.Layers) || len(manifest.Layers) == 0 {
		return
	}
	chains := identity.ChainIDs(append([]digest.Digest(nil), config.RootFS.DiffIDs...))
	at := func(chainID string) string { return namespace + "/" + chainID } // each namespace unpacks for itself
	top := chains[len(chains)-1].String()
	if v.seen[at(top)] {
		return
	}
	dirs, err := v.loader.looks.Directories(ctx, v.loader.Snapshots, top)
	if errdefs.IsNotImplemented(err) {
		v.seen[at(top)] = true
		for _, d := range v.loader.verifyTree(ctx, top, manifest.Layers, v.all) {
			v.note(ctx, d, namespace, image.Name)
		}
		return
	}
	if err != nil || len(dirs) != len(chains) {
		return // not unpacked
	}
	for i, layer := range manifest.Layers {
		if v.seen[at(chains[i].String())] {
			continue
		}
		v.seen[at(chains[i].String())] = true
		d, bad := v.loader.verifyLayer(ctx, dirs[i], layer, v.all)
		if !bad {
			continue
		}
		if _, err := v.loader.Snapshots.Stat(ctx, chains[i].String()); errdefs.IsNotFound(err) {
			return // it was removed meanwhile
		}
		v.note(ctx, d, namespace, image.Name)
	}
}

func (v *verification) note(ctx context.Context, d Damage, namespace, image string) {
	d.Namespace, d.Image = namespace, image
	v.found = append(v.found, d)
	said := log.G(ctx).WithField("namespace", namespace)
	if d.Mended {
		said.Warn(d)
	} else if !v.loader.damaged[d.String()] {
		said.Error(d)
	}
}

// verifyLayer looks at one layer's directory. It reports whether there is anything to say of it.
func (l *Loader) verifyLayer(ctx context.Context, dir string, layer ocispec.Descriptor, all bool) (d Damage, bad bool) {
	d.Layer = layer.Digest
	marked := unpacked.Marked(dir)
	if marked && !all {
		suspicious, err := unpacked.Suspicious(dir)
		if err == nil && !suspicious {
			return d, false
		}
	}
	err := l.compareLayer(ctx, unpacked.NewTree(dir), layer, &d)
	if err != nil || len(d.Files) > 0 { // unless another image has the layer, too, and it is mended just now
		l.mending.Lock()
		defer l.mending.Unlock()
		err = l.compareLayer(ctx, unpacked.NewTree(dir), layer, &d)
	}
	if err != nil {
		d.Files, d.Err = nil, err
		return d, true
	}
	if len(d.Files) == 0 {
		if !marked {
			d.Err = unpacked.Sync(dir) // what was compared may be in memory alone
		}
		return d, d.Err != nil
	}
	d.Err = l.readLayer(ctx, layer, func(r io.Reader) error { return unpacked.Mend(ctx, dir, r, d.Files) })
	d.Mended = d.Err == nil
	return d, true
}

// verifyTree looks at what is unpacked by a snapshotter that has no directory for each layer. It is not mended: there is no telling
// what else uses it. Unless all is asked for, it is only compared if something about it is suspicious, since it is not known whether
// it was synced.
func (l *Loader) verifyTree(ctx context.Context, chainID string, layers []ocispec.Descriptor, all bool) (found []Damage) {
	err := l.looks.Look(ctx, l.Snapshots, chainID, func(dir string) error {
		if !all {
			if suspicious, err := unpacked.Suspicious(dir); err != nil || !suspicious {
				return err
			}
		}
		tree := unpacked.NewTree(dir)
		for _, layer := range slices.Backward(layers) {
			d := Damage{Layer: layer.Digest}
			if err := l.compareLayer(ctx, tree, layer, &d); err != nil {
				d.Files, d.Err = nil, err
				found = append(found, d)
				return nil // what this layer hides of those below is not known
			}
			if len(d.Files) > 0 {
				d.Err = fmt.Errorf("snapshotter %s has no place of its own for a layer; remove the image, and load or pull it again: %w", l.Snapshotter, errdefs.ErrNotImplemented)
				found = append(found, d)
			}
			tree.Descend()
		}
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) { // it was removed meanwhile
		found = append(found, Damage{Layer: layers[len(layers)-1].Digest, Err: err})
	}
	return found
}

// verifyImage verifies a bundle's image before it is said to be there.
func (l *Loader) verifyImage(ctx context.Context, image *Image) (mended bool, err error) {
	c := image.contents
	if len(c.layers) == 0 {
		return false, nil
	}
	dirs, err := l.looks.Directories(ctx, l.Snapshots, c.chainID())
	if errdefs.IsNotImplemented(err) {
		for _, d := range l.verifyTree(ctx, c.chainID(), c.layers, false) {
			d.Image = image.Names[0]
			return false, fmt.Errorf("%s", d)
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("verify what is unpacked: %w", err)
	}
	for i, layer := range c.layers {
		if i >= len(dirs) {
			break
		}
		d, bad := l.verifyLayer(ctx, dirs[i], layer, false)
		d.Image = image.Names[0]
		if !bad {
			continue
		}
		if d.Err != nil {
			return mended, fmt.Errorf("%s", d)
		}
		log.G(ctx).WithField("bundle", image.Bundle.Path()).Warn(d)
		mended = true
	}
	return mended, nil
}
