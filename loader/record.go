// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
)

// The labels of a loaded image.
const (
	// BundleLabel names the bundle that an image was loaded from: its path.
	BundleLabel = "io.berth.bundle"
	// LoadedLabel is when the image became that bundle's, in UTC (RFC 3339). That it is repaired, or pinned again, does not change it.
	LoadedLabel = "io.berth.loaded-at"
	// PinLabel keeps kubelet's garbage collection away. Its value is "pinned".
	PinLabel = "io.cri-containerd.pinned"

	pinned = "pinned"

	// ownLabels begins all labels of Berth's, those of pulls too.
	ownLabels = "io.berth."

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
// CRI, the id that CRI itself would record. What is recorded as it should be is not written, unless CRI is to be told: it
// looks at an image's content when the record changes, and at no other time. It reports whether anything was to be written.
func (l *Loader) record(ctx context.Context, store images.Store, image *Image, tell bool) (changed bool, err error) {
	own := l.Labels(image.Bundle.Path(), l.Namespace)
	if own == nil {
		return false, fmt.Errorf("record image %s: the bundle's path is too long for a label: %w", image.Names[0], errdefs.ErrInvalidArgument)
	}
	if l.Namespace == criNamespace {
		own[criLabel] = criManaged
	}
	if l.unpins {
		own[PinLabel] = "" // an empty label is none
	}
	names, err := l.free(ctx, store, image)
	if err != nil {
		return false, err
	}
	for _, name := range l.digested(image) {
		there, err := store.Get(ctx, name)
		if err != nil && !errdefs.IsNotFound(err) {
			return false, fmt.Errorf("look for image %s: %w", name, err)
		}
		if err != nil || !l.isAnothers(there, image) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		wrote, err := put(ctx, store, images.Image{Name: name, Target: image.Target, Labels: own}, tell)
		if err != nil {
			return changed, fmt.Errorf("record image %s: %w", name, err)
		}
		changed = changed || wrote
	}
	return changed, nil
}

// digested are the names of an image that say its digest: one for each repository and, for CRI, the id.
func (l *Loader) digested(image *Image) []string {
	var all []string
	for _, name := range image.names() {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		digested := named.Name() + "@" + image.Target.Digest.String()
		if !slices.Contains(all, digested) {
			all = append(all, digested)
		}
	}
	if l.Namespace == criNamespace {
		all = append(all, image.contents.config.Digest.String())
	}
	return all
}

// isAnothers reports whether a record that says a digest is that of another image of a bundle, which has the digest, too: one image
// under two names, or one configuration of two manifests. It stays that image's, or each start would give it to the other.
func (l *Loader) isAnothers(there images.Image, image *Image) bool {
	owner := there.Labels[BundleLabel]
	switch {
	case owner == image.Bundle.Path() && there.Target.Digest == image.Target.Digest:
		return false
	case l.catalog.isListing(owner):
		l.catalog.contest(image)
		return true
	}
	return l.catalog.holds(owner, there.Target.Digest)
}

// isRecorded reports whether an image is known by its digest, so that nothing of it is garbage. Its names may be those of another
// image that is kept.
func (l *Loader) isRecorded(ctx context.Context, image *Image) (bool, error) {
	for _, name := range l.digested(image) {
		there, err := l.Images.Get(ctx, name)
		if errdefs.IsNotFound(err) || err == nil && there.Target.Digest != image.Target.Digest && !l.isAnothers(there, image) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look for image %s: %w", name, err)
		}
	}
	return true, nil
}

// wasLoaded reports whether an image was loaded from its bundle before.
func (l *Loader) wasLoaded(ctx context.Context, image *Image) bool {
	return slices.ContainsFunc(append(image.names(), l.digested(image)...), func(name string) bool {
		there, err := l.Images.Get(ctx, name)
		return err == nil && there.Target.Digest == image.Target.Digest && there.Labels[BundleLabel] == image.Bundle.Path()
	})
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
		case owner != "" && l.catalog.mayHold(owner, image.Bundle.Path()):
			l.catalog.contest(image)
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

// put creates or updates one record, if it is not as it should be. It reports whether it was not.
func put(ctx context.Context, store images.Store, want images.Image, always bool) (changed bool, err error) {
	for {
		there, err := store.Get(ctx, want.Name)
		now := time.Now()
		if errdefs.IsNotFound(err) {
			created := want
			created.CreatedAt, created.Labels = now, loadedAt(now, want.Labels)
			if _, err = store.Create(ctx, created); errdefs.IsAlreadyExists(err) {
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
			for label := range there.Labels { // what is noted of the other image
				if _, ok := want.Labels[label]; !ok && strings.HasPrefix(label, ownLabels) {
					paths = append(paths, "labels."+label)
				}
			}
		}
		changed = len(paths) > 0
		if !changed && !always {
			return false, nil
		}
		if !changed {
			paths = append(paths, "labels."+BundleLabel)
		}
		update := images.Image{Name: want.Name, Target: want.Target, Labels: maps.Clone(want.Labels)}
		if there.Target.Digest != want.Target.Digest || there.Labels[BundleLabel] != want.Labels[BundleLabel] {
			update.Labels = loadedAt(now, want.Labels)
			paths = append(paths, "labels."+LoadedLabel)
		}
		if _, err = store.Update(ctx, update, paths...); errdefs.IsNotFound(err) {
			continue // it was removed meanwhile
		}
		return changed && err == nil, err
	}
}

// loadedAt returns labels with the time.
func loadedAt(now time.Time, labels map[string]string) map[string]string {
	with := maps.Clone(labels)
	with[LoadedLabel] = now.UTC().Format(time.RFC3339)
	return with
}
