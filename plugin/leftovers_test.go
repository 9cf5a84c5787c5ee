// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-edge/berth/resolver"
)

// killed is what a containerd that was killed left on its disk, as the next one finds it.
type killed struct {
	ic     *plugin.InitContext
	db     *metadata.DB
	leases leases.Manager
	blobs  content.Store // below db's
	root   string        // of blobs
	logged *bytes.Buffer
}

func newKilled(t *testing.T) *killed {
	t.Helper()
	root := t.TempDir()
	blobs, err := local.NewStore(root)
	if err != nil {
		t.Fatal(err)
	}
	file, err := bolt.Open(filepath.Join(root, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	k := &killed{db: metadata.NewDB(file, blobs, nil), blobs: blobs, root: root, logged: &bytes.Buffer{}}
	if err := k.db.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.leases = metadata.NewLeaseManager(k.db)
	logger := logrus.New()
	logger.Out = k.logged
	k.ic = plugin.NewContext(log.WithLogger(t.Context(), logrus.NewEntry(logger)), plugin.NewPluginSet(), nil)
	return k
}

// add adds a plugin that is there when the leftovers are removed.
func (k *killed) add(t *testing.T, kind plugin.Type, id string, init initFn) {
	t.Helper()
	set := k.ic.Plugins()
	r := plugin.Registration{Type: kind, ID: id, InitFn: init}
	if err := set.Add(r.Init(plugin.NewContext(k.ic.Context, set, nil))); err != nil {
		t.Fatal(err)
	}
}

// thisBoot is the boot of the containerd that removes leftovers.
const thisBoot = "this boot"

// remove removes the leftovers, with containerd's content store there.
func (k *killed) remove(t *testing.T) {
	t.Helper()
	k.add(t, plugins.ContentPlugin, "content", func(ic *plugin.InitContext) (any, error) {
		ic.Meta.Exports["root"] = k.root
		return k.blobs, nil
	})
	removeLeftovers(k.ic, k.db, k.leases, thisBoot)
}

func in(t *testing.T, namespace string) context.Context {
	return namespaces.WithNamespace(t.Context(), namespace)
}

// write begins an ingest of text, and commits it.
func write(t *testing.T, ctx context.Context, store content.Ingester, ref, text string, commit bool) digest.Digest {
	t.Helper()
	w, err := store.Writer(ctx, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Size: int64(len(text))}))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if commit {
		if err := w.Commit(ctx, int64(len(text)), ""); err != nil {
			t.Fatal(err)
		}
	}
	return w.Digest()
}

// Leases of pulls go, in every namespace, and with them what their clients made for them alone, unless they may live.
func TestStaleLeasesAreDeleted(t *testing.T) {
	t.Parallel()
	k := newKilled(t)
	expire := leases.WithExpiration(time.Hour)
	pullIn := func(boot, client string) leases.Opt {
		return leases.WithLabels(map[string]string{resolver.LeaseLabel: "true", resolver.ClientLeaseLabel: client, resolver.BootLabel: boot})
	}
	pullOf := func(client string) leases.Opt { return pullIn("last boot", client) }
	for _, l := range []struct {
		namespace, id string
		opts          []leases.Opt
		used          bool
	}{
		{"one", "pull", []leases.Opt{leases.WithLabel(resolver.LeaseLabel, "true")}, true},
		{"two", "pull", []leases.Opt{leases.WithLabel(resolver.LeaseLabel, "true")}, false},
		{"one", "for-unused", []leases.Opt{pullOf("unused")}, false},
		{"one", "unused", []leases.Opt{expire}, false},
		{"one", "for-alive", []leases.Opt{pullIn(thisBoot, "alive")}, false},
		{"one", "alive", []leases.Opt{expire}, false},
		{"one", "for-used", []leases.Opt{pullOf("used")}, false},
		{"one", "used", []leases.Opt{expire}, true},
		{"one", "for-forever", []leases.Opt{pullOf("forever")}, false},
		{"one", "forever", nil, false},
		{"one", "for-gone", []leases.Opt{pullOf("gone")}, false},
		{"one", "other", []leases.Opt{expire}, false},
		{"two", "unused", []leases.Opt{expire}, false}, // of another namespace
	} {
		ctx := in(t, l.namespace)
		lease, err := k.leases.Create(ctx, append(l.opts, leases.WithID(l.id))...)
		if err != nil {
			t.Fatal(err)
		}
		if l.used {
			if err := k.leases.AddResource(ctx, lease, leases.Resource{ID: digest.FromString(l.id).String(), Type: "content"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	k.remove(t)
	for namespace, want := range map[string][]string{"one": {"alive", "forever", "other", "used"}, "two": {"unused"}} {
		left, err := k.leases.List(in(t, namespace))
		var got []string
		for _, l := range left {
			got = append(got, l.ID)
		}
		if slices.Sort(got); err != nil || !slices.Equal(got, want) {
			t.Errorf("got leases %q (%v) in %s, want %q", got, err, namespace, want)
		}
	}
	if k.logged.Len() > 0 {
		t.Errorf("got log %q, want none", k.logged)
	}
}

// Ingests that a power cut left without the file that says what they are, and those that no namespace knows, are removed.
// One that a pull can go on with stays.
func TestIngestsAreRemoved(t *testing.T) {
	t.Parallel()
	k := newKilled(t)
	for _, ref := range []string{"good", "empty", "absent"} {
		write(t, in(t, "one"), k.db.ContentStore(), ref, ref, false)
	}
	write(t, in(t, "two"), k.db.ContentStore(), "of-two", "of-two", false)
	for _, ref := range []string{"one/7/unknown", "two/7/good", "three/1/good", "one/7/x-good"} {
		write(t, t.Context(), k.blobs, ref, ref, false)
	}
	// An ingest is a directory, which is named for what its file "ref" says.
	dirs := map[string]string{}
	for _, file := range must(filepath.Glob(filepath.Join(k.root, "ingest", "*", "ref"))) {
		ref := string(must(os.ReadFile(file)))
		dirs[ref[strings.LastIndexByte(ref, '/')+1:]] = filepath.Dir(file)
	}
	if err := errors.Join(os.Truncate(dirs["empty"]+"/ref", 0), os.Remove(dirs["absent"]+"/ref")); err != nil {
		t.Fatal(err)
	}
	k.remove(t)
	var got []string
	for _, file := range must(filepath.Glob(filepath.Join(k.root, "ingest", "*", "data"))) {
		got = append(got, string(must(os.ReadFile(file))))
	}
	slices.Sort(got)
	if want := []string{"good", "of-two"}; !slices.Equal(got, want) {
		t.Errorf("got ingests %q, want %q", got, want)
	}
	if status, err := k.db.ContentStore().Status(in(t, "one"), "good"); err != nil || status.Offset != int64(len("good")) {
		t.Errorf("got status %+v, %v, want one that a pull can go on with", status, err)
	}
	if k.logged.Len() > 0 {
		t.Errorf("got log %q, want none", k.logged)
	}
}

// must returns v. It is for what a test cannot go on without.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// unlisted is a store of which not everything can be known.
type unlisted struct{ content.Store }

var errUnlisted = errors.New("cannot be listed")

func (unlisted) Walk(context.Context, content.WalkFunc, ...string) error { return errUnlisted }

func (unlisted) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, errUnlisted
}

// Blobs that no namespace knows are removed, and no others. Where it cannot be known what is known, nothing is.
func TestUnknownContentIsRemoved(t *testing.T) {
	t.Parallel()
	k := newKilled(t)
	known := []digest.Digest{
		write(t, in(t, "one"), k.db.ContentStore(), "one", "known to one", true),
		write(t, in(t, "two"), k.db.ContentStore(), "two", "known to two", true),
	}
	unknown := []digest.Digest{write(t, t.Context(), k.blobs, "a", "unknown", true), write(t, t.Context(), k.blobs, "b", "not known either", true)}
	write(t, t.Context(), k.blobs, "one/7/unknown", "ingest", false)
	want := func(when string, digests []digest.Digest, there bool) {
		t.Helper()
		for _, d := range digests {
			if _, err := k.blobs.Info(t.Context(), d); err == nil != there {
				t.Errorf("%s: got %s there %t (%v), want %t", when, d, err == nil, err, there)
			}
		}
	}
	p := (&plugin.Registration{Type: plugins.ContentPlugin, ID: "content", InitFn: func(*plugin.InitContext) (any, error) { return k.blobs, nil }}).
		Init(plugin.NewContext(t.Context(), plugin.NewPluginSet(), nil))
	if err := removeUnknownContent(t.Context(), []string{"one", "two"}, unlisted{k.db.ContentStore()}, p); !errors.Is(err, errUnlisted) {
		t.Errorf("got %v, want %v", err, errUnlisted)
	}
	want("not listed", unknown, true)
	dir := filepath.Join(k.root, "ingest")
	write(t, t.Context(), k.blobs, "one/7/torn", "torn", false)
	if err := os.Truncate(filepath.Join(dir, digest.FromString("one/7/torn").Encoded(), "ref"), 0); err != nil {
		t.Fatal(err)
	}
	if err := removeIngests(t.Context(), []string{"one"}, unlisted{k.db.ContentStore()}, dir); !errors.Is(err, errUnlisted) {
		t.Errorf("got %v, want %v", err, errUnlisted)
	}
	if left := must(os.ReadDir(dir)); len(left) != 1 {
		t.Errorf("got %d ingests left, want the one that can be read", len(left))
	}
	k.remove(t)
	want("listed", unknown, false)
	want("listed", known, true)
}

// A directory that the overlay snapshotter made and did not record is removed; without that snapshotter, or where it or
// the content store did not start, the rest is done all the same.
func TestOrphanedSnapshotsAreRemoved(t *testing.T) {
	t.Parallel()
	broken := errors.New("did not start")
	for _, tt := range []struct {
		name string
		init func(root string) (snapshots.Snapshotter, error) // nil: it is not built in
		want []string
	}{
		{"of the first snapshot", func(root string) (snapshots.Snapshotter, error) { return overlay.NewSnapshotter(root) }, nil},
		{"beside a snapshot", func(root string) (snapshots.Snapshotter, error) {
			s, err := overlay.NewSnapshotter(root)
			if err != nil {
				return nil, err
			}
			_, err = s.Prepare(t.Context(), "first", "")
			return s, err
		}, []string{"1"}},
		{"did not start", func(string) (snapshots.Snapshotter, error) { return nil, broken }, []string{"2"}},
		{"not built in", nil, []string{"2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newKilled(t)
			root := t.TempDir()
			if err := os.MkdirAll(filepath.Join(root, "snapshots", "2", "fs"), 0o700); err != nil {
				t.Fatal(err)
			}
			if tt.init != nil {
				k.add(t, plugins.SnapshotPlugin, "overlayfs", func(ic *plugin.InitContext) (any, error) {
					ic.Meta.Exports[plugins.SnapshotterRootDir] = root
					s, err := tt.init(root)
					if err == nil {
						t.Cleanup(func() { s.Close() })
					}
					return s, err
				})
			}
			k.add(t, plugins.ContentPlugin, "content", func(*plugin.InitContext) (any, error) { return nil, broken })
			if _, err := k.leases.Create(in(t, "one"), leases.WithID("pull"), leases.WithLabel(resolver.LeaseLabel, "true")); err != nil {
				t.Fatal(err)
			}
			removeLeftovers(k.ic, k.db, k.leases, thisBoot)
			if left, err := k.leases.List(in(t, "one")); err != nil || len(left) != 0 {
				t.Errorf("got leases %v (%v), want none", left, err)
			}
			var got []string
			for _, dir := range must(os.ReadDir(filepath.Join(root, "snapshots"))) {
				got = append(got, dir.Name())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got directories %q of snapshots, want %q", got, tt.want)
			}
			if k.logged.Len() > 0 {
				t.Errorf("got log %q, want none: containerd tells of its plugins itself", k.logged)
			}
		})
	}
}
