// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/distribution/reference"
	"github.com/prometheus/client_golang/prometheus"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-edge/berth/loader"
	"github.com/berth-edge/berth/plugin/watch"
	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/strict"
)

// LoaderPlugin is the type of the plugin that loads the bundles of this machine.
const LoaderPlugin plugin.Type = "io.containerd.loader.v1"

// LoaderID is the id of the one plugin of that type, LoaderURI its name in config.toml.
const (
	LoaderID  = "bundle"
	LoaderURI = string(LoaderPlugin) + "." + LoaderID
)

func init() {
	registry.Register(&plugin.Registration{
		Type: LoaderPlugin,
		ID:   LoaderID,
		Requires: []plugin.Type{
			ResolverPlugin, plugins.TransferPlugin, plugins.MetadataPlugin, plugins.ContentPlugin, plugins.LeasePlugin, plugins.SnapshotPlugin,
		},
		Config: defaultLoaderConfig(), // a map, as the resolver's is
		InitFn: startLoader,
	})
}

// Loader is the loader of this machine, or why there is none.
type Loader struct {
	*loader.Loader
	err error
}

var _ io.Closer = (*Loader)(nil)

// Close is called when containerd ends by itself.
func (l *Loader) Close() error {
	if l.Loader == nil {
		return nil
	}
	return l.Loader.Close()
}

// startLoader never fails for what an operator wrote: it holds the error, and `berth status` shows it.
func startLoader(ic *plugin.InitContext) (any, error) {
	var problems strict.Problems
	settings := ReadLoader(strict.Stanza{Name: `plugins."` + LoaderURI + `"`, Values: *ic.Config.(*map[string]any)}, &problems)
	if err := problems.Err(); err != nil {
		for _, problem := range strings.Split(err.Error(), "\n") {
			log.G(ic.Context).WithField("problem", problem).Error("stanza of the loader cannot be used: no bundle is loaded until it is mended")
		}
		return &Loader{err: err}, nil
	}
	node, err := loaderNode(ic, settings)
	if err != nil {
		log.G(ic.Context).WithError(err).Error("no bundle can be loaded")
		return &Loader{err: err}, nil
	}
	l := &Loader{Loader: loader.New(settings.Options, node)}
	prometheus.MustRegister(append(loader.Collectors(), l.Loader)...)
	if r, err := resolverOf(ic); err == nil && r != nil {
		r.offer(bundles{l.Loader})
	}
	var changes <-chan struct{}
	if settings.Watch {
		changes = watch.Folders(ic.Context, settings.Paths...)
	}
	ready := func() {}
	if settings.HoldReady {
		ready = holdReady(ic, maxHold)
	}
	go l.Run(ic.Context, changes, ready)
	return l, nil
}

// maxHold is how long readiness is held back at most: systemd gives up after 90 s.
const maxHold = 60 * time.Second

// holdReady holds back systemd's READY until the returned function is called, or limit has passed.
func holdReady(ic *plugin.InitContext, limit time.Duration) (release func()) {
	ready := sync.OnceFunc(ic.RegisterReadiness())
	timer := time.AfterFunc(limit, func() {
		log.G(ic.Context).Warnf("bundles are not loaded after %s; containerd is ready without them", limit)
		ready()
	})
	return func() {
		timer.Stop()
		ready()
	}
}

// loaderNode finds what the loader works on.
func loaderNode(ic *plugin.InitContext, settings LoaderSettings) (loader.Node, error) {
	m, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return loader.Node{}, err
	}
	db := m.(*metadata.DB)
	blobs, err := ic.GetSingle(plugins.ContentPlugin)
	if err != nil {
		return loader.Node{}, err
	}
	manager, err := ic.GetSingle(plugins.LeasePlugin)
	if err != nil {
		return loader.Node{}, err
	}
	t, err := ic.GetSingle(plugins.TransferPlugin)
	if err != nil {
		return loader.Node{}, err
	}
	service, err := t.(*transfers).forBundles(settings.Parallel, settings.Verify)
	if err != nil {
		return loader.Node{}, fmt.Errorf("make a transfer service for bundles: %w", err)
	}
	snapshotter := db.Snapshotter(settings.Snapshotter)
	if snapshotter == nil {
		return loader.Node{}, fmt.Errorf("snapshotter %q of the loader's stanza: %w", settings.Snapshotter, errdefs.ErrNotFound)
	}
	return loader.Node{
		Images: metadata.NewImageStore(db),
		Together: func(ctx context.Context, do func(context.Context, images.Store) error) error {
			return together(ctx, db, do)
		},
		Content:    db.ContentStore(),
		Blobs:      blobs.(content.Store),
		Leases:     manager.(leases.Manager),
		Transfer:   service,
		Snapshots:  snapshotter,
		Namespaces: func(ctx context.Context) ([]string, error) { return namespaceNames(ctx, db) },
		Writes:     func() (string, error) { return writes(db) },
		StartedAt:  ic.Plugins().Get(plugins.MetadataPlugin, "bolt").Meta.Exports[writesExport],
		Root:       ic.Properties[plugins.PropertyRootDir],
	}, nil
}

// writesExport is what the metadata plugin exports as the number of the last transaction before this start.
const writesExport = "berth.writes"

// noteWrites notes that number before garbage is collected, which writes.
func noteWrites(ic *plugin.InitContext, inner initFn) (any, error) {
	instance, err := inner(ic)
	if db, ok := instance.(*metadata.DB); ok && err == nil {
		if number, err := writes(db); err == nil {
			ic.Meta.Exports[writesExport] = number
		}
	}
	return instance, err
}

// writes is the number of the last transaction of a database.
func writes(db *metadata.DB) (number string, err error) {
	err = db.View(func(tx *bolt.Tx) error {
		number = strconv.Itoa(tx.ID())
		return nil
	})
	return number, err
}

// bundles offers the loader's images to pulls.
type bundles struct{ *loader.Loader }

var _ resolver.Bundles = bundles{}

// Find implements [resolver.Bundles].
func (b bundles) Find(ctx context.Context, named reference.Named) (resolver.Bundled, bool) {
	image, ok := b.Catalog().Find(named)
	if !ok {
		return resolver.Bundled{}, false
	}
	namespace, _ := namespaces.Namespace(ctx)
	return resolver.Bundled{
		Path:          image.Bundle.Path(),
		Labels:        b.Labels(image.Bundle.Path(), namespace),
		Holds:         image.Bundle.Has,
		DiscardLayers: b.DropLayers && namespace == b.Namespace,
		Service:       b.Transfer,
		ImageFetcher:  loader.NewSource(image, named.String()),
	}, true
}

// Listed are the bundles of a stanza, for who only wants to know the routes of images.
func Listed(ctx context.Context, settings LoaderSettings) resolver.Bundles {
	return listed{loader.OpenCatalog(ctx, settings.Options)}
}

type listed struct{ catalog *loader.Catalog }

// Find implements [resolver.Bundles].
func (l listed) Find(_ context.Context, named reference.Named) (resolver.Bundled, bool) {
	image, ok := l.catalog.Find(named)
	if !ok {
		return resolver.Bundled{}, false
	}
	return resolver.Bundled{Path: image.Bundle.Path()}, true
}

// Wait implements [resolver.Bundles]: everything is listed.
func (listed) Wait(context.Context, reference.Named) {}

// Wait implements [resolver.Bundles].
func (b bundles) Wait(ctx context.Context, named reference.Named) {
	b.Catalog().Wait(ctx, named, b.Options.Wait)
}
