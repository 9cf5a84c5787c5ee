// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// letGo unpins the images of bundles that have gone, and those that are no longer in their bundle. What else was kept for them
// goes, too.
func (l *Loader) letGo(ctx context.Context) error {
	if err := l.forget(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("remove listings of bundles that have gone")
	}
	_, err := l.unpin(ctx, l.hasDeparted)
	return errors.Join(err, l.endFormerLeases(ctx))
}

// hasDeparted reports whether an image is no bundle's any more. One in another namespace was loaded under another stanza.
func (l *Loader) hasDeparted(image ownedImage) bool {
	bundle := image.Labels[BundleLabel]
	return image.namespace != l.Namespace || !l.catalog.holds(bundle, image.Target.Digest) && (l.owned(bundle) || l.former.known[bundle] || l.catalog.has(bundle) || isGone(bundle))
}

// holdOn keeps what letGo would unpin, and notes what that is. What a bundle held that cannot be listed may be there still.
func (l *Loader) holdOn(ctx context.Context) {
	all, err := l.ownedImages(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Warn("find out which images stay pinned though their bundles have gone")
		return
	}
	var names []string
	for _, image := range all {
		if !strings.HasPrefix(image.Name, "sha256:") && l.hasDeparted(image) && !l.catalog.isUnlisted(image.Labels[BundleLabel]) {
			names = append(names, image.Name)
		}
	}
	before := l.departed.Swap(&names)
	if len(names) > 0 && (before == nil || !slices.Equal(*before, names)) {
		log.G(ctx).WithField("images", names).Warn("images of bundles that have gone stay pinned until everything else is loaded")
	}
}

// Departed returns the names of images whose bundles have gone, or hold them no longer, and that are pinned all the same: not
// everything is loaded that may replace them.
func (l *Loader) Departed() []string {
	if names := l.departed.Load(); names != nil {
		return *names
	}
	return nil
}

// Unpin unpins every image that was loaded. They stay, and are images like any other; nothing more is loaded until containerd
// starts again.
func (l *Loader) Unpin(ctx context.Context) (int, error) {
	l.rounds.Lock()
	defer l.rounds.Unlock()
	l.unpinned.Store(true)
	return l.unpin(ctx, func(ownedImage) bool { return true })
}

// pinnedBefore reports whether images are pinned that the loader pinned. CRI pins its sandbox image, too, by its name and its id,
// and that pin is CRI's.
func (l *Loader) pinnedBefore(ctx context.Context) bool {
	all, err := l.ownedImages(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Warn("find out which images are pinned")
	}
	return slices.ContainsFunc(all, func(i ownedImage) bool {
		return i.namespace == l.Namespace && i.Labels[PinLabel] != "" && strings.Contains(i.Name, "@")
	})
}

// dropPins takes the pins of a start with Pin from images whose bundles are not loaded in this one: those that were loaded by hand.
func (l *Loader) dropPins(ctx context.Context) error {
	all, err := l.ownedImages(ctx)
	if err != nil {
		return err
	}
	for _, image := range all {
		if image.namespace != l.Namespace || image.Labels[PinLabel] == "" || l.catalog.has(image.Labels[BundleLabel]) {
			continue
		}
		if err := l.unlabel(ctx, image, PinLabel); err != nil {
			return err
		}
	}
	return nil
}

// unlabel takes labels from an image, and leaves those alone that others give it meanwhile.
func (l *Loader) unlabel(ctx context.Context, image ownedImage, labels ...string) error {
	var paths []string
	for _, label := range labels {
		paths = append(paths, "labels."+label)
	}
	without := images.Image{Name: image.Name}
	if _, err := l.Images.Update(namespaces.WithNamespace(ctx, image.namespace), without, paths...); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("unpin image %s: %w", image.Name, err)
	}
	return nil
}

func isGone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// ownedImage is an image that was loaded from a bundle.
type ownedImage struct {
	images.Image
	namespace string
}

// ownedImages lists them in all namespaces.
func (l *Loader) ownedImages(ctx context.Context) (all []ownedImage, err error) {
	spaces, err := l.spaces(ctx)
	if err != nil {
		return nil, err
	}
	for _, namespace := range spaces {
		list, err := l.Images.List(namespaces.WithNamespace(ctx, namespace), `labels."`+BundleLabel+`"`)
		if err != nil {
			return nil, fmt.Errorf("list loaded images of namespace %s: %w", namespace, err)
		}
		for _, image := range list {
			all = append(all, ownedImage{image, namespace})
		}
	}
	return all, nil
}

// spaces are all namespaces, that of l first.
func (l *Loader) spaces(ctx context.Context) ([]string, error) {
	all, err := l.Namespaces(ctx)
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	return append([]string{l.Namespace}, slices.DeleteFunc(all, func(name string) bool { return name == l.Namespace })...), nil
}

// unpin unpins images that are gone, and notes that no others stay pinned that were to be. It returns how many it unpinned.
func (l *Loader) unpin(ctx context.Context, gone func(ownedImage) bool) (n int, err error) {
	all, err := l.ownedImages(ctx)
	if err != nil {
		return 0, err
	}
	for _, image := range all {
		if !gone(image) {
			continue
		}
		if err := l.unlabel(ctx, image, BundleLabel, LoadedLabel, PinLabel); err != nil {
			return n, err
		}
		n++
		log.G(ctx).WithFields(log.Fields{"image": image.Name, "namespace": image.namespace, "bundle": image.Labels[BundleLabel]}).Info("image is unpinned")
	}
	l.departed.Store(nil)
	return n, nil
}
