// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The labels of a loaded image.
const (
	// BundleLabel names the bundle that an image was loaded from: its path.
	BundleLabel = "io.berth.bundle"
	// PinLabel keeps kubelet's garbage collection away. Its value is "pinned".
	PinLabel = "io.cri-containerd.pinned"

	pinned = "pinned"

	// criLabel says that CRI manages the image; criNamespace is where it does.
	criLabel     = "io.cri-containerd.image"
	criManaged   = "managed"
	criNamespace = "k8s.io"
)

// Labels are those of an image that was loaded from a bundle, or pulled from it into a namespace.
func (l *Loader) Labels(bundle, namespace string) map[string]string {
	if namespace != l.Namespace || l.unpinned.Load() || labels.Validate(BundleLabel, bundle) != nil { // its path may be too long for a label
		return nil
	}
	set := map[string]string{BundleLabel: bundle}
	if l.Pin {
		set[PinLabel] = pinned
	}
	return set
}

// record writes what images a bundle's image is known by: its names and aliases, each repository with the digest, and, for
// CRI, the id that CRI itself would record. What is recorded as it should be is not written. It reports whether anything was.
func (l *Loader) record(ctx context.Context, store images.Store, image *Image) (changed bool, err error) {
	own := l.Labels(image.Bundle.Path(), l.Namespace)
	if own == nil {
		return false, fmt.Errorf("record image %s: the bundle's path is too long for a label: %w", image.Names[0], errdefs.ErrInvalidArgument)
	}
	if l.Namespace == criNamespace {
		own[criLabel] = criManaged
	}
	names, err := l.free(ctx, store, image)
	if err != nil {
		return false, err
	}
	for _, name := range append(names, digested(image.names(), image.Target)...) {
		wrote, err := put(ctx, store, images.Image{Name: name, Target: image.Target, Labels: own})
		if err != nil {
			return changed, fmt.Errorf("record image %s: %w", name, err)
		}
		changed = changed || wrote
	}
	if l.Namespace == criNamespace {
		wrote, err := put(ctx, store, images.Image{Name: image.contents.config.Digest.String(), Target: image.Target, Labels: own})
		if err != nil {
			return changed, fmt.Errorf("record image id %s: %w", image.contents.config.Digest, err)
		}
		changed = changed || wrote
	}
	return changed, nil
}

// digested returns name@digest for the repository of each name.
func digested(names []string, target ocispec.Descriptor) (all []string) {
	for _, name := range names {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		if name := named.Name() + "@" + target.Digest.String(); !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// free returns the names that the image may have. A name that is already that of another image is taken over, and that is
// said, unless that one is of a bundle further in front or is to be kept.
func (l *Loader) free(ctx context.Context, store images.Store, image *Image) ([]string, error) {
	var names []string
	for _, name := range image.names() {
		there, err := store.Get(ctx, name)
		if errdefs.IsNotFound(err) || err == nil && there.Target.Digest == image.Target.Digest {
			names = append(names, name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for image %s: %w", name, err)
		}
		owner := there.Labels[BundleLabel]
		said := log.G(ctx).WithFields(log.Fields{"image": name, "bundle": image.Bundle.Path(), "digest": image.Target.Digest, "other": there.Target.Digest, "other-bundle": owner})
		switch {
		case owner != "" && l.catalog.before(owner, image.Bundle.Path()):
			continue
		case owner == "" && l.KeepOthers:
			said.Warn("name is that of another image, which is kept; the bundle's image has its digest alone")
			continue
		case owner == "":
			said.Warn("name was that of another image; it is that of the bundle's now")
		default:
			said.Info("name is that of another bundle's image now")
		}
		names = append(names, name)
	}
	return names, nil
}

// put creates or updates one record, if it is not as it should be.
func put(ctx context.Context, store images.Store, want images.Image) (wrote bool, err error) {
	for {
		there, err := store.Get(ctx, want.Name)
		if errdefs.IsNotFound(err) {
			want.CreatedAt = time.Now()
			if _, err = store.Create(ctx, want); errdefs.IsAlreadyExists(err) {
				continue
			}
			return err == nil, err
		}
		if err != nil {
			return false, err
		}
		var paths []string
		for label, value := range want.Labels {
			if there.Labels[label] != value {
				paths = append(paths, "labels."+label)
			}
		}
		if there.Target.Digest != want.Target.Digest {
			paths = append(paths, "target")
		}
		if len(paths) == 0 {
			return false, nil
		}
		update := images.Image{Name: want.Name, Target: want.Target, Labels: maps.Clone(want.Labels)}
		if _, err = store.Update(ctx, update, paths...); errdefs.IsNotFound(err) {
			continue // it was removed meanwhile
		}
		return err == nil, err
	}
}

// letGo unpins the images of bundles that have gone.
func (l *Loader) letGo(ctx context.Context) error {
	return l.unpin(ctx, func(bundle string) bool { return !l.catalog.holds(bundle) && (l.owned(bundle) || isGone(bundle)) })
}

// Unpin unpins every image that was loaded. They stay, and are images like any other; nothing more is loaded until containerd
// starts again.
func (l *Loader) Unpin(ctx context.Context) (int, error) {
	l.rounds.Lock()
	defer l.rounds.Unlock()
	ctx = namespaces.WithNamespace(ctx, l.Namespace)
	l.unpinned.Store(true)
	before, err := l.ownedImages(ctx)
	if err != nil {
		return 0, err
	}
	return len(before), l.unpin(ctx, func(string) bool { return true })
}

func isGone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func (l *Loader) ownedImages(ctx context.Context) ([]images.Image, error) {
	all, err := l.Images.List(ctx, `labels."`+BundleLabel+`"`)
	if err != nil {
		return nil, fmt.Errorf("list loaded images: %w", err)
	}
	return all, nil
}

func (l *Loader) unpin(ctx context.Context, gone func(bundle string) bool) error {
	all, err := l.ownedImages(ctx)
	if err != nil {
		return err
	}
	for _, image := range all {
		bundle := image.Labels[BundleLabel]
		if !gone(bundle) {
			continue
		}
		delete(image.Labels, BundleLabel)
		delete(image.Labels, PinLabel)
		if _, err := l.Images.Update(ctx, image, "labels"); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("unpin image %s: %w", image.Name, err)
		}
		log.G(ctx).WithFields(log.Fields{"image": image.Name, "bundle": bundle}).Info("image is unpinned: its bundle has gone")
	}
	return nil
}
