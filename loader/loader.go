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
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/berth-edge/berth/loader/unpacked"
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
	// Named parses a name and brings it to the one form by which pulls ask for it; nil is the form of package reference. An image
	// is recorded under its name as it is written.
	Named func(ref string) (reference.Named, error)
	// KeepOthers leaves a name alone that is already that of another image, which no bundle brought.
	KeepOthers bool
	// DropLayers lets garbage collection take compressed layers that are unpacked: the bundle can serve them again.
	DropLayers bool
}

// Node is what the loader works on: containerd's own stores and services.
type Node struct {
	Images images.Store
	// Together runs do with a store of images of which all changes are written at once, or none. do uses nothing of containerd's but
	// that store, with the context that it is given: nobody else writes meanwhile.
	Together func(ctx context.Context, do func(context.Context, images.Store) error) error
	Content  content.Store
	// Blobs is the store under Content, which knows no namespaces.
	Blobs    content.Store
	Leases   leases.Manager
	Transfer transfer.Transferrer
	// Snapshots is the snapshotter of [Options].
	Snapshots snapshots.Snapshotter
	// Namespaces lists all that there are.
	Namespaces func(context.Context) ([]string, error)
	// Writes says how often containerd's database was ever written.
	Writes func() (string, error)
	// StartedAt is what Writes said before anything of this start was written; "" if that is not known.
	StartedAt string
	// Root is a directory for what the loader remembers.
	Root string
}

// Loader loads bundles. It is safe for concurrent use.
type Loader struct {
	Options
	Node
	catalog *Catalog
	looks   *unpacked.Looks
	again   chan struct{}       // has Run load once more
	work    *semaphore.Weighted // one for each image or bundle that is worked on

	rounds    sync.Mutex               // one round of loading at a time
	loaded    bool                     // guarded by rounds
	former    former                   // guarded by rounds
	unpins    bool                     // this round takes the pins of a start with Pin away; guarded by rounds
	unpinned  atomic.Bool              // every image was let go of by hand: Berth is being removed
	unclean   atomic.Bool              // what is unpacked may be damaged, and was not looked at since
	departed  atomic.Pointer[[]string] // see Departed
	verifying sync.Mutex
	damaged   map[string]bool // what was said of damage that nobody mended; guarded by verifying
	leasing   sync.Mutex
	leased    bool       // the round has its lease; guarded by leasing
	repairs   sync.Mutex // one blob is repaired at a time
	mending   sync.Mutex // and one unpacked layer
}

// New returns a loader that has loaded nothing yet.
func New(o Options, n Node) *Loader {
	l := &Loader{
		Options: o, Node: n,
		catalog: newCatalog(o),
		looks:   unpacked.NewLooks(),
		again:   make(chan struct{}, 1),
		work:    semaphore.NewWeighted(int64(o.Parallel)),
		former:  former{file: filepath.Join(n.Root, "bundles.json")},
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
	l.former.add(ctx, files)
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
	if failed || l.catalog.isCopying() { // which may be what replaces it
		l.holdOn(ctx)
	} else if err = l.letGo(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("let go of bundles that have gone; it is tried again")
	} else {
		l.former.set(ctx, files)
	}
	l.endLease(ctx, failed)
	summarize(ctx, entries, int(l.catalog.said.Swap(0)), first, time.Since(start))
	return err
}

// LoadPaths loads bundles by hand, in the background; ctx ends it, and what was loaded by then stays. A path that is absent, or a
// bundle that is refused, is one that failed. An error says that there is nothing to load.
func (l *Loader) LoadPaths(ctx context.Context, paths []string) (*Load, error) {
	files, refused := find(paths)
	for _, path := range paths {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			refused = append(refused, refusal{path, fmt.Errorf("load %s: no such file or directory: %w", path, errdefs.ErrNotFound)})
		}
	}
	if len(files) == 0 {
		var errs []error
		for _, r := range refused {
			errs = append(errs, r.err)
		}
		if len(errs) == 0 {
			errs = append(errs, fmt.Errorf("no bundle in %s: %w", strings.Join(paths, ", "), errdefs.ErrNotFound))
		}
		return nil, errors.Join(errs...)
	}
	l.unpinned.Store(false)
	load := &Load{refused: refused, done: make(chan struct{})}
	l.rounds.Lock()
	if err := ctx.Err(); err != nil { // a round may take long
		l.rounds.Unlock()
		return nil, err
	}
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
		l.catalog.said.Store(0)
		if ctx.Err() != nil { // whoever asked for it does not want it any more: that is no fault of the bundles
			own, _ := find(l.Paths)
			l.catalog.forsake(load.entries, setOf(own))
			select {
			case l.again <- struct{}{}: // which has l's own loaded
			default:
			}
		}
	}()
	return load, nil
}

// Load is bundles that are loaded by hand.
type Load struct {
	entries []*entry
	refused []refusal
	done    chan struct{}
}

// Done is closed when the load has ended.
func (l *Load) Done() <-chan struct{} { return l.done }

// Status says how the bundles stand.
func (l *Load) Status() []BundleStatus {
	all := make([]BundleStatus, 0, len(l.entries)+len(l.refused))
	for _, e := range l.entries {
		all = append(all, e.status())
	}
	for _, r := range l.refused {
		all = append(all, BundleStatus{Path: r.path, State: Failed, Err: r.err})
	}
	return all
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
