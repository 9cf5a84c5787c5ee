// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// loadImage makes an image whole: it repairs what is damaged, pulls what is missing, and records the image under its names. An
// image of which everything is there is pulled all the same if it is not recorded, or if some of it was just written: the pull
// sets the labels that keep one blob, and the snapshot, for another.
func (l *Loader) loadImage(ctx context.Context, image *Image, written bool) (State, error) {
	k, recorded, err := l.checkHeld(ctx, image)
	if err != nil {
		return Failed, err
	}
	mended := false
	if k.isUnpacked() && l.unclean.Load() {
		if mended, err = l.verifyImage(ctx, image); err != nil {
			return Failed, err
		}
	}
	state := Loaded
	if mended || l.wasLoaded(ctx, image) {
		state = Repaired
	}
	if k.nothing() && !written && recorded {
		changed, err := l.record(ctx, l.Images, image, false)
		if err != nil {
			return Failed, err
		}
		if !changed && !mended {
			state = Present
		}
		return state, l.dropLayers(ctx, image)
	}
	for try := 1; ; try++ {
		final, err := l.pull(ctx, image, k)
		if err == nil {
			return state, l.dropLayers(ctx, image)
		}
		if final || try == maxTries {
			return Failed, err
		}
		log.G(ctx).WithError(err).WithFields(log.Fields{"image": image.Names[0], "bundle": image.Bundle.Path()}).Debug("image is loaded again from its bundle")
		if k, _, err = l.checkHeld(ctx, image); err != nil {
			return Failed, err
		}
		if err := l.checkLayers(ctx, &k); err != nil {
			return Failed, err
		}
	}
}

// checkLayers reads the layers that are to be unpacked, after that failed once: one of them may have its size and other bytes.
func (l *Loader) checkLayers(ctx context.Context, k *lacks) error {
	lacking := append(slices.Clone(k.missing), k.damaged...)
	for _, layer := range k.toUnpack {
		if slices.ContainsFunc(lacking, func(l ocispec.Descriptor) bool { return l.Digest == layer.Digest }) {
			continue
		}
		sound, err := l.isSound(ctx, layer)
		switch {
		case errdefs.IsNotFound(err): // it was removed meanwhile, and is pulled
		case err != nil:
			return err
		case !sound:
			k.damaged = append(k.damaged, layer)
		}
	}
	return nil
}

// maxTries is how often an image is pulled from its bundle. One pull may fail by what another left half-written, or by what
// was removed meanwhile, and the next does not.
const maxTries = 3

// pull brings what an image lacks. It reports whether an error is final, since trying again at once is of no use.
func (l *Loader) pull(ctx context.Context, image *Image, k lacks) (final bool, err error) {
	if err := image.hasAll(ctx, append(slices.Clone(k.missing), k.damaged...)); err != nil {
		return true, err
	}
	if err := l.enoughSpace(k, image.ranOut.Load()); err != nil {
		return true, err
	}
	if ctx, err = l.lease(ctx); err != nil {
		return true, err
	}
	err = l.supply(ctx, image, k)
	if err == nil {
		err = l.Transfer.Transfer(ctx, NewSource(image, normalized(image.Names[0])), &destination{loader: l, image: image})
	}
	if err != nil {
		l.reset(ctx, image)
		return l.diagnose(ctx, image, k, err)
	}
	if k, err = l.check(ctx, image); err != nil {
		return true, err
	}
	if k.isUnpacked() && !k.nothing() { // lower layers, which are not pulled if their snapshots exist
		if err := l.supply(ctx, image, k); err != nil {
			return l.diagnose(ctx, image, k, err)
		}
		if k, err = l.check(ctx, image); err != nil {
			return true, err
		}
	}
	if !k.isUnpacked() {
		return false, fmt.Errorf("not unpacked: something removed it, or containerd's transfer service has no unpack_config for %s and snapshotter %q", formatted(l.Platform), l.Snapshotter)
	}
	if !k.nothing() {
		return false, fmt.Errorf("blob %s is not there after all: something removed it", append(k.missing, k.damaged...)[0].Digest)
	}
	return false, nil
}

// hasAll reports the first blob that is not in an image's bundle: nothing of the image need be written then.
func (i *Image) hasAll(ctx context.Context, wanted []ocispec.Descriptor) error {
	for _, desc := range wanted {
		if !i.Bundle.Has(desc.Digest) {
			i.setBroken()
			_, err := i.Bundle.Fetch(ctx, desc)
			return err
		}
	}
	return nil
}

// normalized is a name with its host, by which containerd labels content.
func normalized(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.TagNameOnly(named).String()
}

// supply writes the blobs that a pull would not: those that are damaged, since it takes what is there for whole; those of
// layers whose snapshots exist, since it skips these; and those of no bytes, which it takes for the fault of a registry.
func (l *Loader) supply(ctx context.Context, image *Image, k lacks) error {
	for _, desc := range k.damaged {
		if err := l.replace(ctx, image.Bundle.Path(), desc, fetcher{image}.Fetch); err != nil {
			return err
		}
	}
	for _, desc := range k.missing {
		spoiled, err := l.isSpoiled(ctx, desc)
		switch {
		case err != nil:
		case spoiled:
			err = l.replace(ctx, image.Bundle.Path(), desc, fetcher{image}.Fetch)
		case k.isUnpacked() || desc.Size == 0:
			err = l.write(ctx, image, desc)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *Loader) write(ctx context.Context, image *Image, desc ocispec.Descriptor) error {
	r, err := fetcher{image}.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	return l.writeBlob(ctx, desc, r)
}

// writeBlob writes a blob from its start, whatever was written of it before.
func (l *Loader) writeBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	w, err := content.OpenWriter(ctx, l.Content, content.WithRef(remotes.MakeRefKey(ctx, desc)), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	return copyBlob(ctx, w, desc, r)
}

// copyBlob writes a blob from its start, and closes w.
func copyBlob(ctx context.Context, w content.Writer, desc ocispec.Descriptor, r io.Reader) error {
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	if err := content.Copy(ctx, w, r, desc.Size, desc.Digest); err != nil {
		_ = w.Truncate(0) // give the space back
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	return nil
}

// reset empties what a failed load left half-written: containerd would go on where it ended, even with bytes that were
// wrong. An ingest that a pull holds open stays.
func (l *Loader) reset(ctx context.Context, image *Image) {
	ctx = context.WithoutCancel(ctx)
	for _, desc := range image.contents.all() {
		key := remotes.MakeRefKey(ctx, desc)
		if _, err := l.Content.Status(ctx, key); err != nil {
			continue
		}
		w, err := l.Content.Writer(ctx, content.WithRef(key), content.WithDescriptor(desc))
		if err != nil {
			continue
		}
		if err := w.Truncate(0); err != nil {
			log.G(ctx).WithError(err).WithField("digest", desc.Digest).Warn("reset a failed load")
		}
		w.Close()
	}
}

// diagnose says why a load failed, in the words of the bundle if it is the bundle's fault: containerd's do not name the file.
// It reports whether that is final.
func (l *Loader) diagnose(ctx context.Context, image *Image, k lacks, err error) (final bool, _ error) {
	if isFull(err) {
		return true, l.withNeed(k, err)
	}
	if errors.Is(err, syscall.EROFS) || ctx.Err() != nil {
		return true, err
	}
	for _, desc := range image.contents.all() {
		if !image.Bundle.Has(desc.Digest) {
			continue // there is another copy, or the error says that there is none
		}
		if wrong := image.Bundle.Check(ctx, desc); wrong != nil {
			var machine syscall.Errno
			if ctx.Err() == nil && !errors.As(wrong, &machine) { // which may pass
				image.setBroken()
			}
			return true, wrong
		}
	}
	return false, err
}
