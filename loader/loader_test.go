// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/loader"
	"github.com/berth-edge/berth/loader/storetest"
)

// transferFunc is a transfer service.
type transferFunc func(source any) error

func (f transferFunc) Transfer(_ context.Context, source, _ any, _ ...transfer.Opt) error {
	return f(source)
}

// newLoader makes a loader of a folder, on stores of its own.
func newLoader(t *testing.T, folder string, service transferFunc) (*loader.Loader, leases.Manager) {
	t.Helper()
	db, blobs := storetest.New(t)
	manager := metadata.NewLeaseManager(db)
	return loader.New(loader.Options{
		Paths: []string{folder}, Namespace: "k8s.io", Parallel: 1, Snapshotter: "native", Platform: platforms.DefaultSpec(),
	}, loader.Node{
		Images: metadata.NewImageStore(db), Content: db.ContentStore(), Blobs: blobs, Leases: manager, Transfer: service,
		Snapshots: db.Snapshotter("native"), Root: t.TempDir(),
		Namespaces: func(context.Context) ([]string, error) { return nil, nil },
		Writes:     func() (string, error) { return "1", nil },
		StartedAt:  "1",
	}), manager
}

// bundles makes a folder with one bundle for each name.
func bundles(t *testing.T, names ...string) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		img := image.Small("linux/amd64", uint64(10*i))
		image.WriteFile(t, filepath.Join(folder, name+".tar"), image.Tar(image.OCI([]image.Named{img.Name("quay.io/" + name + ":1")})))
	}
	return folder
}

// TestPanic has the transfer service panic (REL-01, L21): containerd lives on, the image has failed, the next bundle is worked
// on, and nothing is held.
func TestPanic(t *testing.T) {
	var asked []string
	l, manager := newLoader(t, bundles(t, "a", "b"), func(source any) error {
		name := source.(*loader.Source).Image()
		asked = append(asked, name)
		if name == "quay.io/a:1" {
			panic("boom")
		}
		return errors.New("not today")
	})
	err := l.Load(t.Context())
	if err == nil || !strings.Contains(err.Error(), "panic: boom") || !strings.Contains(err.Error(), "not today") {
		t.Errorf("got %v, want the panic and the error of the other", err)
	}
	for _, b := range l.Catalog().Status() {
		if b.State != loader.Failed || b.Err == nil || len(b.Images) != 1 || b.Images[0].State != loader.Failed {
			t.Errorf("got %+v, want it failed", b)
		}
	}
	list, err := manager.List(namespaces.WithNamespace(t.Context(), "k8s.io"))
	if err != nil || len(list) != 0 {
		t.Errorf("got leases %v %v, want none", list, err)
	}
	before := len(asked)
	if err := l.Load(t.Context()); err == nil || len(asked) == before {
		t.Errorf("got %v after %v, want both tried again", err, asked)
	}
}

// TestLargestFirst loads the largest image of a bundle first, wherever the bundle has it: nothing is left that takes long when
// others have nothing to do.
func TestLargestFirst(t *testing.T) {
	folder := bundles(t)
	var images []image.Named
	for i, size := range []int{1 << 10, 4 << 10, 3 << 10, 2 << 10} {
		layer := image.NewLayer(image.Random("data", uint64(i), size))
		images = append(images, image.New(image.Config{Layers: []image.Layer{layer}}).Name(fmt.Sprintf("quay.io/k%d:1", size>>10)))
	}
	image.WriteFile(t, filepath.Join(folder, "all.tar"), image.Tar(image.OCI(images)))
	var asked []string
	l, _ := newLoader(t, folder, func(source any) error {
		asked = append(asked, source.(*loader.Source).Image())
		return errors.New("not today")
	})
	_ = l.Load(t.Context())
	want := []string{"quay.io/k4:1", "quay.io/k3:1", "quay.io/k2:1", "quay.io/k1:1"}
	if got := slices.Compact(asked); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestProcessors has Go's scheduler have processors to spare while bundles are loaded, unless an operator said how many: what waits
// for the disk holds one.
func TestProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0)) // as go test -cpu has it
	runtime.SetDefaultGOMAXPROCS()
	usual := runtime.GOMAXPROCS(0)
	for set, want := range map[string]bool{"": true, "1": false} {
		t.Setenv("GOMAXPROCS", set)
		loading := 0
		l, _ := newLoader(t, bundles(t, "a"), func(any) error {
			loading = runtime.GOMAXPROCS(0)
			return errors.New("not today")
		})
		_ = l.Load(t.Context())
		if got := loading > usual; got != want {
			t.Errorf("GOMAXPROCS=%q: %d processors while loading, and %d else", set, loading, usual)
		}
		if after := runtime.GOMAXPROCS(0); after != usual {
			t.Errorf("GOMAXPROCS=%q: %d processors after loading, want %d as before", set, after, usual)
		}
	}
}

// listed are leases, of which somebody is told when they are listed.
type listed struct {
	leases.Manager
	tell func()
}

func (l listed) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	l.tell()
	return l.Manager.List(ctx, filters...)
}

// TestProcessorsOfNothing leaves Go's scheduler alone where there is nothing to load, as at most starts: it would halt the process.
func TestProcessorsOfNothing(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	runtime.SetDefaultGOMAXPROCS()
	usual, told := runtime.GOMAXPROCS(0), 0
	l, manager := newLoader(t, bundles(t), nil)
	l.Leases = listed{manager, func() {
		told++
		if got := runtime.GOMAXPROCS(0); got != usual {
			t.Errorf("%d processors with nothing to load, want %d", got, usual)
		}
	}}
	if err := loader.New(l.Options, l.Node).Load(t.Context()); err != nil || told == 0 {
		t.Errorf("got %v, asked for leases %d times", err, told)
	}
}

// TestEnded keeps the lease of a load that ends with containerd, for the next start to go on under (REL-16). That one gives it up,
// though it has nothing to load (REL-04).
func TestEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, manager := newLoader(t, bundles(t, "a"), func(any) error {
		cancel()
		return ctx.Err()
	})
	if err := l.Load(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
	want := func(count int) {
		t.Helper()
		list, err := manager.List(namespaces.WithNamespace(t.Context(), "k8s.io"))
		if err != nil || len(list) != count {
			t.Errorf("got leases %v %v, want %d", list, err, count)
		}
	}
	want(1)
	l.Paths = []string{bundles(t)}
	if err := loader.New(l.Options, l.Node).Load(t.Context()); err != nil {
		t.Error(err)
	}
	want(0)
}

// noLeases cannot make a lease, as on a disk that is full or was mounted read-only.
type noLeases struct{ leases.Manager }

func (noLeases) Create(context.Context, ...leases.Opt) (leases.Lease, error) {
	return leases.Lease{}, syscall.EROFS
}

// TestNoLease has containerd's store refuse to be written to (L7, REL-15): each bundle says so, what is in them is known to
// pulls all the same, and they are loaded when it can be written to again.
func TestNoLease(t *testing.T) {
	asked := 0
	l, manager := newLoader(t, bundles(t, "a", "b"), func(any) error { asked++; return errors.New("not today") })
	l.Leases = noLeases{manager}
	if err := l.Load(t.Context()); !errors.Is(err, syscall.EROFS) || asked != 0 {
		t.Errorf("got %v and %d pulls, want a read-only file system, and none", err, asked)
	}
	for _, b := range l.Catalog().Status() {
		if b.State != loader.Failed || !errors.Is(b.Err, syscall.EROFS) || len(b.Images) != 1 {
			t.Errorf("got %+v, want it listed, and failed with the reason", b)
		}
	}
	named, err := reference.ParseNormalizedNamed("quay.io/b:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Catalog().Find(named); !ok {
		t.Error("got no image for a pull, want that of the bundle")
	}
	l.Leases = manager
	if err := l.Load(t.Context()); err == nil || asked < 2 {
		t.Errorf("got %v after %d pulls, want both bundles tried again", err, asked)
	}
}

// TestLoadInterrupted ends a load by hand before it is done, as Ctrl-C of berth load does: the bundle is forgotten, and is no fault
// that status shows from then on.
func TestLoadInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	other := bundles(t, "other")
	pulls := make(chan string, 10)
	l, _ := newLoader(t, bundles(t), func(source any) error {
		pulls <- source.(*loader.Source).Image()
		<-ctx.Done()
		return ctx.Err()
	})
	running, stop := context.WithCancel(t.Context())
	rounds, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(running, nil, func() { close(rounds) })
	}()
	<-rounds
	load, err := l.LoadPaths(ctx, []string{other})
	if err != nil {
		t.Fatal(err)
	}
	if got := <-pulls; got != "quay.io/other:1" {
		t.Errorf("got a pull of %s, want that of the bundle", got)
	}
	cancel()
	<-load.Done()
	if got := l.Catalog().Status(); len(got) != 0 {
		t.Errorf("got %+v, want no bundle", got)
	}
	stop()
	<-ended
}

// TestLoadOwnInterrupted ends a load by hand of a bundle that lies in one of the loader's folders, before it began and before it is
// done: pulls find the bundle all the time.
func TestLoadOwnInterrupted(t *testing.T) {
	folder := bundles(t, "own")
	own, err := reference.ParseNamed("quay.io/own:1")
	if err != nil {
		t.Fatal(err)
	}
	pulls := make(chan context.CancelFunc, 1)
	l, _ := newLoader(t, folder, func(any) error {
		select {
		case cancel := <-pulls:
			cancel()
		default:
		}
		return errors.New("interrupted")
	})
	_ = l.Load(t.Context()) // which fails, and knows the bundle
	for _, begun := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		if pulls <- cancel; !begun {
			(<-pulls)()
		}
		load, err := l.LoadPaths(ctx, []string{filepath.Join(folder, "own.tar")})
		if (err == nil) != begun {
			t.Fatalf("begun %t: got %v", begun, err)
		}
		if err == nil {
			<-load.Done()
		}
		if _, ok := l.Catalog().Find(own); !ok || ctx.Err() == nil {
			t.Errorf("begun %t: got bundle %t, %v, want the bundle and an end by hand", begun, ok, ctx.Err())
		}
	}
}

// TestLayoutLater looks again at a layout of which a blob came later: nothing about the directory itself tells.
func TestLayoutLater(t *testing.T) {
	folder := bundles(t)
	img := image.Small("linux/amd64", 50)
	entries := image.OCI([]image.Named{img.Name("quay.io/a:1")})
	dir := image.WriteLayout(t, filepath.Join(folder, "layout"), entries)
	last := entries[len(entries)-1]
	if err := os.Remove(filepath.Join(dir, last.Name)); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	age := func() {
		for _, path := range []string{"", "blobs", "blobs/sha256", "index.json"} {
			if err := os.Chtimes(filepath.Join(dir, path), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	age()
	asked := 0
	l, _ := newLoader(t, folder, func(any) error { asked++; return errors.New("not today") })
	if err := l.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "is not in the bundle") {
		t.Errorf("got %v, want that a blob is not there", err)
	}
	image.WriteFile(t, filepath.Join(dir, last.Name), last.Data)
	age()
	if err := l.Load(t.Context()); err == nil || asked == 0 {
		t.Errorf("got %v and %d pulls, want one at least", err, asked)
	}
}
