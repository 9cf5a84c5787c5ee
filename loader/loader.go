// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package loader imports the images that ship with a machine.
//
// A bundle is a source like a registry is one: loading is pulling from it, through containerd's own transfer service. So
// leases, digests, labels of garbage collection and the skipping of what exists are containerd's. What the loader adds is
// in three steps, for every image of every bundle:
//
//	check    what of the image is there, whole, and recorded as it should be; nothing is assumed, and nothing that is
//	         there is written again
//	repair   what is there and damaged; a pull would take it for whole
//	pull     what is missing
//
// A [Catalog] knows which bundle holds an image, for pulls of the same image that come from elsewhere.
package loader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// Options are what an operator sets.
type Options struct {
	// Paths are bundles, and directories that hold bundles. One that is absent is fine.
	Paths []string
	// Namespace is where images are loaded into.
	Namespace string
	// Pin keeps kubelet's garbage collection from loaded images.
	Pin bool
	// Parallel is how many images are loaded at once, 1 or more.
	Parallel int
	// Snapshotter is the one that images are unpacked for, "" for containerd's default.
	Snapshotter string
	// Platform is that of the images to load.
	Platform ocispec.Platform
	// Wait bounds how long a pull waits for a bundle to be listed, and for an image that is being loaded.
	Wait time.Duration
	// Aliases are further names of images: the name that is wanted, and the name that a bundle has.
	Aliases map[string]string
	// KeepOthers leaves a name alone that is already that of another image, which no bundle brought.
	KeepOthers bool
	// DropLayers lets garbage collection take compressed layers that are unpacked: the bundle can serve them again.
	DropLayers bool
}

// Node is what the loader works on: containerd's own stores and services.
type Node struct {
	Images  images.Store
	Content content.Store
	// Blobs is the store under Content, which knows no namespaces.
	Blobs    content.Store
	Leases   leases.Manager
	Transfer transfer.Transferrer
	// Snapshots is the snapshotter of [Options].
	Snapshots snapshots.Snapshotter
	// Namespaces lists all that there are.
	Namespaces func(context.Context) ([]string, error)
	// Root is a directory for what the loader remembers.
	Root string
}

// Loader loads bundles. It is safe for concurrent use.
type Loader struct {
	Options
	Node
	catalog  *Catalog
	platform platforms.MatchComparer
	work     *semaphore.Weighted // one for each image or bundle that is worked on

	rounds    sync.Mutex  // one round of loading at a time
	loaded    bool        // guarded by rounds
	unpinned  atomic.Bool // every image was let go of by hand: Berth is being removed
	unclean   atomic.Bool // what is unpacked may be damaged, and was not looked at since
	verifying sync.Mutex
	repairs   sync.Mutex // one blob is repaired at a time
}

// New returns a loader that has loaded nothing yet.
func New(o Options, n Node) *Loader {
	platform := platforms.Only(o.Platform)
	l := &Loader{
		Options: o, Node: n, platform: platform,
		catalog: newCatalog(platform, o.Aliases),
		work:    semaphore.NewWeighted(int64(o.Parallel)),
	}
	l.unclean.Store(true) // until Run knows better
	return l
}

// Catalog returns what the loader knows of its bundles.
func (l *Loader) Catalog() *Catalog { return l.catalog }

// Load lists the bundles of Paths and loads what is not loaded yet. An error says that at least one image or bundle could
// not be loaded; the catalog says which, and why. Bundles that have gone since the last time are let go of.
func (l *Loader) Load(ctx context.Context) error {
	l.rounds.Lock()
	defer l.rounds.Unlock()
	ctx = namespaces.WithNamespace(ctx, l.Namespace)
	start := time.Now()
	if l.unpinned.Load() {
		return nil
	}
	files, refused := find(l.Paths)
	first := !l.loaded
	entries := l.catalog.begin(files, refused)
	err := l.loadAll(ctx, entries)
	if ctx.Err() != nil {
		return ctx.Err() // the lease stays, and the next start goes on under it
	}
	l.loaded = true
	failed := err != nil
	if first {
		l.catalog.warnAliases(ctx)
	}
	if !failed {
		if err = l.letGo(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("let go of bundles that have gone; it is tried again")
		}
	}
	l.endLease(ctx, failed)
	summarize(ctx, entries, first, time.Since(start))
	return err
}

// LoadPaths loads bundles by hand, in the background; ctx ends it. An error says that there is nothing to load.
func (l *Loader) LoadPaths(ctx context.Context, paths []string) (*Load, error) {
	for _, path := range paths {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("load %s: no such file or directory: %w", path, errdefs.ErrNotFound)
		}
	}
	files, refused := find(paths)
	var errs []error
	for _, r := range refused {
		errs = append(errs, r.err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no bundle in %s: %w", strings.Join(paths, ", "), errdefs.ErrNotFound)
	}
	l.unpinned.Store(false)
	load := &Load{done: make(chan struct{})}
	l.rounds.Lock()
	load.entries = l.catalog.add(files)
	go func() {
		defer close(load.done)
		defer l.rounds.Unlock()
		ctx := namespaces.WithNamespace(ctx, l.Namespace)
		defer l.recovered(ctx, func(error) {})
		err := l.loadAll(ctx, load.entries)
		if err != nil {
			log.G(ctx).WithError(err).Debug("load by hand")
		}
		l.endLease(ctx, err != nil)
	}()
	return load, nil
}

// Load is bundles that are loaded by hand.
type Load struct {
	entries []*entry
	done    chan struct{}
}

// Done is closed when the load has ended.
func (l *Load) Done() <-chan struct{} { return l.done }

// Status says how the bundles stand.
func (l *Load) Status() []BundleStatus {
	all := make([]BundleStatus, 0, len(l.entries))
	for _, e := range l.entries {
		all = append(all, e.status())
	}
	return all
}

// loadAll lists and loads bundles, those at the front first.
func (l *Loader) loadAll(ctx context.Context, entries []*entry) error {
	leased, err := l.lease(ctx)
	if err != nil {
		l.listAll(ctx, entries, err)
		return err
	}
	ctx = leased
	var work sync.WaitGroup
	for i, e := range entries {
		work.Go(func() {
			defer l.recovered(ctx, func(err error) {
				e.fail(err)
				e.announce(ctx)
			})
			l.loadBundle(ctx, e, entries[:i])
		})
	}
	work.Wait()
	for _, e := range entries {
		l.loadOthers(ctx, e)
	}
	if err := l.loadAlone(ctx, entries); err != nil {
		return err
	}
	l.settle(ctx, entries)
	note(ctx, entries)
	var errs []error
	for _, e := range entries {
		errs = append(errs, e.error())
	}
	return errors.Join(errs...)
}

// listAll lists bundles that cannot be loaded, since containerd cannot write to its own store: pulls find out what is in them,
// and status says why they are not loaded.
func (l *Loader) listAll(ctx context.Context, entries []*entry, err error) {
	var work sync.WaitGroup
	for _, e := range entries {
		work.Go(func() {
			defer l.recovered(ctx, e.fail)
			e.start = time.Now()
			if l.list(ctx, e) {
				e.fail(fmt.Errorf("load bundle %s: %w", e.path, err))
			}
			e.announce(ctx)
		})
	}
	work.Wait()
}

// loadBundle lists and loads a bundle, which stands behind others.
func (l *Loader) loadBundle(ctx context.Context, e *entry, front []*entry) {
	e.start = time.Now()
	if !l.list(ctx, e) {
		e.announce(ctx)
		return
	}
	l.catalog.waitListed(ctx, front) // or it is not known which names are e's, and what is loaded was a matter of chance
	images := l.catalog.take(e)
	var fetched map[*Image]error
	if e.bundle.Compressed() {
		fetched = l.fetchAll(ctx, e, images)
	}
	var work sync.WaitGroup
	for _, image := range images {
		err, written := fetched[image]
		if err != nil {
			image.end(Failed, err)
			continue
		}
		work.Go(func() {
			defer l.recovered(ctx, image.fail)
			if err := l.work.Acquire(ctx, 1); err != nil {
				image.fail(err)
				return
			}
			defer l.work.Release(1)
			image.start()
			result, err := l.loadImage(ctx, image, written)
			image.end(result, err)
		})
	}
	work.Wait()
	if len(e.full()) > 0 {
		return // see loadAlone
	}
	e.end()
	e.announce(ctx)
}

// loadOthers loads the images of a bundle that another was to bring, and could not.
func (l *Loader) loadOthers(ctx context.Context, e *entry) {
	images := l.catalog.takeOver(e)
	for _, image := range images {
		_ = l.loadOne(ctx, image) // the image has it
	}
	if len(images) > 0 {
		e.end()
		e.announce(ctx)
	}
}

// loadOne loads an image, and notes how that ended.
func (l *Loader) loadOne(ctx context.Context, image *Image) error {
	defer l.recovered(ctx, image.fail)
	image.start()
	state, err := l.loadImage(ctx, image, true)
	image.end(state, err)
	return err
}

// loadAlone loads the images for which there was no room again, the smallest first and one at a time, after what they left
// went: one that is too large would keep the others out. What it finds out of their sizes holds for the next rounds.
func (l *Loader) loadAlone(ctx context.Context, entries []*entry) error {
	var images []*Image
	for _, e := range entries {
		if len(e.full()) == 0 {
			continue
		}
		images = append(images, e.full()...)
		defer func() {
			e.end()
			e.announce(ctx)
		}()
	}
	slices.SortFunc(images, func(a, b *Image) int { return cmp.Compare(a.contents.size(), b.contents.size()) })
	dirty := true
	for _, image := range images {
		if dirty && ctx.Err() == nil {
			l.endLease(ctx, true)
			if _, err := l.lease(ctx); err != nil {
				return err
			}
		}
		dirty = l.loadOneAlone(ctx, image)
	}
	return nil
}

// loadOneAlone reports whether it may have left something.
func (l *Loader) loadOneAlone(ctx context.Context, image *Image) (dirty bool) {
	_, free, unknown := l.space(lacks{})
	err := l.loadOne(ctx, image)
	if err != nil && isFull(err) && unknown == nil {
		image.ranOut.Store(max(free, image.ranOut.Load()))
	}
	_, after, _ := l.space(lacks{})
	return err != nil && after < free
}

// settle records again, now that all bundles are listed, the images that have names which others lay claim to: while they
// were loaded it was not known yet whose these are.
func (l *Loader) settle(ctx context.Context, entries []*entry) {
	for _, e := range entries {
		for _, image := range l.catalog.contested(e) {
			if _, err := l.record(ctx, l.Images, image, false); err != nil {
				image.fail(err)
				e.end()
			}
		}
	}
}

// list opens a bundle and reads what is in it, unless that is known. It reports whether there is anything to load.
func (l *Loader) list(ctx context.Context, e *entry) bool {
	if e.listed() {
		return e.bundle != nil
	}
	for {
		before, err := os.Lstat(e.path)
		if err != nil {
			e.fail(err)
			return false
		}
		start := time.Now()
		b, err := l.open(ctx, e.path)
		var machine syscall.Errno
		switch {
		case err == nil:
			l.catalog.list(ctx, e, b)
			return true
		case ctx.Err() != nil:
			e.fail(ctx.Err())
			return false
		case time.Since(written(e.path)).Abs() < settled:
			e.set(Copying) // it may still be copied
			if wait(ctx, max(settled/4, 2*time.Since(start))) {
				continue
			}
		case errors.As(err, &machine):
			e.fail(err) // which may pass, and the bundle stay the same
			return false
		}
		e.cannotRead(before, err)
		return false
	}
}

// settled is how long ago a bundle was written for its faults to be its own, and not those of a copy that is not complete.
const settled = 2 * time.Second

// written returns when a bundle was last written to: of a layout, when a file was added to it.
func written(path string) (last time.Time) {
	for _, sub := range []string{"", "index.json", "blobs", "blobs/sha256"} {
		if info, err := os.Lstat(filepath.Join(path, sub)); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// wait reports whether d passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// recovered keeps a panic from ending containerd.
func (l *Loader) recovered(ctx context.Context, fail func(error)) {
	if r := recover(); r != nil {
		log.G(ctx).WithField("stack", string(debug.Stack())).Errorf("panic while loading: %v", r)
		fail(fmt.Errorf("panic: %v", r))
	}
}

// owned reports whether path is one of l's paths, or lies in one of them.
func (l *Loader) owned(path string) bool {
	return slices.ContainsFunc(l.Paths, func(p string) bool {
		p = filepath.Clean(p)
		return path == p || filepath.Dir(path) == p
	})
}
