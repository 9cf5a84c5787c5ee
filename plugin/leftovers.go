// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-edge/berth/resolver"
)

// removeLeftovers removes what a containerd that was killed, or lost its power, left of its pulls and does not find
// itself. No pull runs yet. boot is that of now, "" if it is not known.
func removeLeftovers(ic *plugin.InitContext, db *metadata.DB, manager leases.Manager, boot string) {
	names, err := namespaceNames(ic.Context, db)
	if err != nil {
		log.G(ic.Context).WithError(err).Warn("list namespaces, to remove what pulls left that were killed")
		return
	}
	deleteStaleLeases(ic.Context, names, manager, boot)
	if p := ic.Plugins().Get(plugins.ContentPlugin, "content"); p != nil && p.Err() == nil {
		if err := removeIngests(ic.Context, names, db.ContentStore(), filepath.Join(p.Meta.Exports["root"], "ingest")); err != nil {
			log.G(ic.Context).WithError(err).Warn("remove ingests that cannot be read or are not recorded")
		}
		if err := removeUnknownContent(ic.Context, names, db.ContentStore(), p); err != nil {
			log.G(ic.Context).WithError(err).Warn("remove content that is not recorded")
		}
	}
	if err := removeOrphanedSnapshots(ic); err != nil {
		log.G(ic.Context).WithError(err).Warn("remove directories of snapshots that were never recorded")
	}
}

func namespaceNames(ctx context.Context, db *metadata.DB) (names []string, err error) {
	err = db.View(func(tx *bolt.Tx) (err error) {
		names, err = metadata.NewNamespaceStore(tx).List(ctx)
		return err
	})
	return names, err
}

// bootID names the boot of the machine.
func bootID(ctx context.Context) string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		log.G(ctx).WithError(err).Warn("find out which boot this is: leases of clients that a power cut ends stay until they expire")
	}
	return strings.TrimSpace(string(id))
}

// deleteStaleLeases deletes the leases of pulls that ended with containerd, and those of their clients that ended with the
// machine. A client that lives may go on under its lease.
func deleteStaleLeases(ctx context.Context, names []string, manager leases.Manager, boot string) {
	for _, name := range names {
		ctx := namespaces.WithNamespace(ctx, name)
		stale, err := manager.List(ctx, `labels."`+resolver.LeaseLabel+`"`)
		if err != nil {
			log.G(ctx).WithError(err).Warn("list leases of pulls that were killed")
		}
		for _, lease := range stale {
			if boot != "" && lease.Labels[resolver.BootLabel] != boot {
				if err := deleteUnusedLease(ctx, manager, lease.Labels[resolver.ClientLeaseLabel]); err != nil {
					log.G(ctx).WithError(err).WithField("lease", lease.ID).Warn("delete lease of the client of a pull that was killed")
				}
			}
			if err := manager.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
				log.G(ctx).WithError(err).WithField("lease", lease.ID).Warn("delete lease of a pull that was killed")
			}
		}
	}
}

// deleteUnusedLease deletes the lease that a client made, unless it is used or was made to stay.
func deleteUnusedLease(ctx context.Context, manager leases.Manager, id string) error {
	found, err := manager.List(ctx, "id=="+strconv.Quote(id))
	if err != nil || len(found) == 0 || found[0].Labels["containerd.io/gc.expire"] == "" {
		return err
	}
	used, err := manager.ListResources(ctx, found[0])
	if err != nil || len(used) > 0 {
		return err
	}
	return manager.Delete(ctx, found[0])
}

// removeIngests removes the ingests below dir that nobody else would, with everything that was downloaded: those that
// cannot be read, and those that no namespace knows, since they are made before they are recorded.
func removeIngests(ctx context.Context, names []string, known content.IngestManager, dir string) error {
	// The content store does not sync the file "ref", so that after a power cut it is empty, or not there; and it aborts
	// an ingest by what that file says. An ingest is named for it.
	if err := removeIngestsIf(dir, func(name, ref string) bool { return digest.FromString(ref).Encoded() != name }); err != nil {
		return err
	}
	type recorded struct{ namespace, ref string }
	var all []recorded
	for _, name := range names {
		statuses, err := known.ListStatuses(namespaces.WithNamespace(ctx, name))
		if err != nil {
			return err // what is known is not complete
		}
		for _, status := range statuses {
			all = append(all, recorded{name, status.Ref})
		}
	}
	return removeIngestsIf(dir, func(_, ref string) bool { // of the form NAMESPACE/NUMBER/REF
		return !slices.ContainsFunc(all, func(r recorded) bool {
			return strings.HasPrefix(ref, r.namespace+"/") && strings.HasSuffix(ref, "/"+r.ref)
		})
	})
}

// removeIngestsIf removes the ingests of which remove says so, by their name and what their file "ref" says.
func removeIngestsIf(dir string, remove func(name, ref string) bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		ref, err := os.ReadFile(filepath.Join(dir, e.Name(), "ref"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		if remove(e.Name(), string(ref)) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeUnknownContent removes blobs that no namespace knows. Their removal is recorded before it is done, and not
// synced, so that a power cut brings them back; garbage collection only looks for them when it removes another.
func removeUnknownContent(ctx context.Context, names []string, known content.Manager, p *plugin.Plugin) error {
	instance, err := p.Instance()
	if err != nil {
		return err
	}
	store, ok := instance.(content.Manager)
	if !ok {
		return nil
	}
	seen := map[digest.Digest]bool{}
	for _, name := range names {
		if err := known.Walk(namespaces.WithNamespace(ctx, name), func(info content.Info) error {
			seen[info.Digest] = true
			return nil
		}); err != nil {
			return err // what is known is not complete
		}
	}
	err = store.Walk(ctx, func(info content.Info) error {
		if seen[info.Digest] {
			return nil
		}
		if err := store.Delete(ctx, info.Digest); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil // the directory of blobs is made for the first
	}
	return err
}

// removeOrphanedSnapshots has the overlay snapshotter remove directories that its database does not know. It makes the
// directory of a snapshot, which its number names, before it commits that number: if containerd ends in between, the
// next snapshot gets the number again, finds the directory there and fails.
func removeOrphanedSnapshots(ic *plugin.InitContext) error {
	p := ic.Plugins().Get(plugins.SnapshotPlugin, "overlayfs")
	if p == nil {
		return nil
	}
	instance, err := p.Instance()
	if err != nil {
		return nil // containerd says so itself
	}
	c, ok := instance.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	err = c.Cleanup(ic.Context)
	if !errdefs.IsNotFound(err) {
		return err
	}
	// Its database has never recorded a snapshot, which it takes for an error: containerd ended during the first.
	dirs, err := filepath.Glob(filepath.Join(p.Meta.Exports[plugins.SnapshotterRootDir], "snapshots", "*"))
	errs := []error{err}
	for _, dir := range dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}
