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

// letGo unpins the images of bundles that have gone, and those that are no longer in their bundle.
func (l *Loader) letGo(ctx context.Context) error {
	err := l.unpin(ctx, l.hasDeparted)
	if err == nil {
		l.departed.Store(nil)
	}
	return err
}

func (l *Loader) hasDeparted(image images.Image) bool {
	bundle := image.Labels[BundleLabel]
	return !l.catalog.holds(bundle, image.Target.Digest) && (l.owned(bundle) || l.former.known[bundle] || l.catalog.has(bundle) || isGone(bundle))
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
	ctx = namespaces.WithNamespace(ctx, l.Namespace)
	l.unpinned.Store(true)
	before, err := l.ownedImages(ctx)
	if err != nil {
		return 0, err
	}
	return len(before), l.unpin(ctx, func(images.Image) bool { return true })
}

// pinnedBefore reports whether images are pinned that the loader pinned. CRI pins its sandbox image, too, by its name and its id,
// and that pin is CRI's.
func (l *Loader) pinnedBefore(ctx context.Context) bool {
	all, err := l.ownedImages(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Warn("find out which images are pinned")
	}
	return slices.ContainsFunc(all, func(i images.Image) bool { return i.Labels[PinLabel] != "" && strings.Contains(i.Name, "@") })
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

func (l *Loader) unpin(ctx context.Context, gone func(images.Image) bool) error {
	all, err := l.ownedImages(ctx)
	if err != nil {
		return err
	}
	for _, image := range all {
		if !gone(image) {
			continue
		}
		bundle := image.Labels[BundleLabel]
		delete(image.Labels, BundleLabel)
		delete(image.Labels, PinLabel)
		if _, err := l.Images.Update(ctx, image, "labels"); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("unpin image %s: %w", image.Name, err)
		}
		log.G(ctx).WithFields(log.Fields{"image": image.Name, "bundle": bundle}).Info("image is unpinned")
	}
	return nil
}
