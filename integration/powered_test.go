// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/powercut"
	"github.com/berth-edge/berth/integration/registry"
)

// powerLane is a client that pulls; it has a namespace of its own, whose name it is.
type powerLane string

const (
	laneCRI powerLane = "k8s.io"
	laneCtr powerLane = "default"
)

// poweredImage is an image under the name that it is pulled by.
type poweredImage struct {
	*image.Image
	ref string
}

// powered is a containerd whose root is a disk that loses its power. Everything else, the registry's storage and the
// logs too, is elsewhere: nobody but containerd makes the disk's journal commit.
type powered struct {
	disk   *powercut.Disk
	daemon *daemon.Daemon
	images []poweredImage // pulled at full speed
	slow   []poweredImage // whose last layer takes for ever until fast is set
	fast   atomic.Bool
	large  poweredImage // is slow, too, in its only layer

	registry    *registry.Registry
	cri         cri.ImageServiceClient
	powered     context.Context // of clients, until power is cut
	powerOff    func()
	binary      string
	config      string
	snapshotter string
	hosts       string // directory of hosts.toml, for stock
	stock       bool
}

func newPowered(t *testing.T, binary, config string) *powered {
	t.Helper()
	p := &powered{binary: binary, config: config, snapshotter: "overlayfs", hosts: t.TempDir()}
	p.registry = registry.Start(t, registry.Options{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/v2/slow/") && strings.Contains(r.URL.Path, "/blobs/") {
				w = &unhurried{ResponseWriter: w, ctx: r.Context(), fast: &p.fast}
			}
			next.ServeHTTP(w, r)
		})
	}})
	registry.WriteHosts(t, p.hosts, "registry.test", p.registry.Mirror(t))
	for i, img := range powerImages() {
		repo := fmt.Sprintf("fast/%d:1", i)
		img.Push(t, p.registry, repo)
		p.images = append(p.images, poweredImage{img, "registry.test/" + repo})
	}
	for i := range 4 {
		img := image.New(image.Config{Layers: []image.Layer{
			image.NewLayer(image.Random("first", uint64(500+i), 100_000), image.Random("usr/second", uint64(510+i), 200_000)),
			image.NewLayer(image.Random("large", uint64(520+i), 2<<20)),
			image.NewLayer(image.Random("last", uint64(530+i), 100_000)),
		}})
		repo := fmt.Sprintf("slow/%d:1", i)
		img.Push(t, p.registry, repo)
		p.slow = append(p.slow, poweredImage{img, "registry.test/" + repo})
	}
	p.large = poweredImage{image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("large", 540, 8<<20))}}),
		"registry.test/slow/large:1"}
	p.large.Push(t, p.registry, "slow/large:1")
	p.disk = powercut.New(t, 512<<20)
	return p
}

// unhurried writes what is large slowly.
type unhurried struct {
	http.ResponseWriter
	ctx  context.Context
	fast *atomic.Bool
	n    int
}

func (w *unhurried) Write(data []byte) (int, error) {
	if w.n += len(data); w.n > 1<<20 {
		for !w.fast.Load() && w.ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return w.ResponseWriter.Write(data)
}

// powerImages are images of everything that a layer can hold, and some that share layers: all but the first find
// snapshots that are there already, one nothing else.
func powerImages() []*image.Image {
	var many []image.File
	for i := range 60 {
		many = append(many, image.Random(fmt.Sprintf("usr/lib/%d/file", i), uint64(i), i*i*20))
	}
	base, top := image.NewLayer(many...), image.NewLayer(image.Random("etc/top", 200, 50_000))
	kinds := image.NewLayer(
		image.File{Path: "etc/empty"},
		image.File{Path: "var/spool", Mode: fs.ModeDir | 0o700},
		image.Random("bin/tool", 201, 30_000),
		image.File{Path: "bin/again", Link: "bin/tool"},
		image.File{Path: "bin/link", Mode: fs.ModeSymlink, Data: []byte("tool")},
		image.File{Path: "bin/noted", Mode: 0o755, Data: []byte("x"), Xattrs: map[string]string{"user.note": "kept"}},
	)
	removed := image.NewLayer(
		image.File{Path: "usr/lib/7/.wh.file"},
		image.File{Path: "usr/lib/8/.wh..wh..opq"},
		image.Random("usr/lib/8/new", 202, 10_000),
		image.File{Path: "usr/.wh.nothing"},
	)
	return []*image.Image{
		image.New(image.Config{Layers: []image.Layer{base, top}}),
		image.New(image.Config{Layers: []image.Layer{base, top}, Env: []string{"SAME=layers"}}),
		image.New(image.Config{Layers: []image.Layer{base, kinds, removed}}),
		image.New(image.Config{Layers: []image.Layer{base, image.NewLayer(), image.NewLayer(image.File{Path: "etc/one"})}}),
		image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("large", 203, 6<<20))}, Docker: true}),
		image.Multi(204),
	}
}

func (p *powered) all() []poweredImage { return slices.Concat(p.images, p.slow) }

func (p *powered) find(dgst digest.Digest) *image.Image {
	for _, img := range append(p.all(), p.large) {
		if img.Digest == dgst {
			return img.Image
		}
	}
	return nil
}

// start starts containerd on the disk, or again.
func (p *powered) start(t *testing.T) {
	t.Helper()
	if p.daemon == nil {
		p.daemon = p.newDaemon(t, filepath.Join(p.disk.Dir, "root"))
	}
	if err := p.daemon.Run(t); err != nil {
		t.Fatalf("start containerd: %v\n%s", err, p.daemon.Log.Tail(20))
	}
	p.cri, _ = p.daemon.CRI(t)
	p.powered, p.powerOff = context.WithCancel(t.Context())
}

// kill ends containerd, and the clients that still wait for it.
func (p *powered) kill() {
	p.daemon.Kill()
	p.powerOff()
}

func (p *powered) newDaemon(t *testing.T, root string) *daemon.Daemon {
	t.Helper()
	// What is in flight must not hold back the other pulls.
	config := "version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\n  max_concurrent_downloads = 30\n" + p.config
	if p.stock {
		config += criHosts(p.hosts)[len("version = 3\n"):]
	} else {
		config += fmt.Sprintf(`
[plugins."io.containerd.resolver.v1.external-registry"]
  config_path = []
  [[plugins."io.containerd.resolver.v1.external-registry".registries]]
    domain = %q
    certificates = [%q]
  [[plugins."io.containerd.resolver.v1.external-registry".rules]]
    from = "registry.test"
    to = [%[1]q]
`, p.registry.Host(), p.registry.CA.File(t))
	}
	return daemon.New(t, daemon.Options{Binary: p.binary, Root: root, CRI: true, Level: "info", Config: config})
}

// cutAfterPulls starts pulls that do not end, does others, and cuts the power as soon as those have returned. Nothing
// is asked of containerd in between.
func (p *powered) cutAfterPulls(t *testing.T, lanes []powerLane) {
	t.Helper()
	var inFlight, pulls sync.WaitGroup
	var ended atomic.Bool
	for i, lane := range lanes {
		for j, img := range p.slow {
			if j%len(lanes) != i {
				continue // of two pulls of one image, one would wait for the other and have nothing in hand
			}
			inFlight.Go(func() {
				if err := p.pull(t, lane, img); err == nil || !ended.Load() {
					t.Errorf("%s pulls %s: got %v before the cut, want it in flight", lane, img.ref, err)
				}
			})
		}
		pulls.Go(func() {
			for _, img := range p.images {
				p.wantPull(t, lane, img)
			}
		})
	}
	pulls.Wait()
	ended.Store(true)
	p.disk.Cut(t)
	p.kill()
	inFlight.Wait()
	p.fast.Store(true)
	p.disk.Restore(t)
}

// pull pulls an image; a nil error is containerd's word that it is there.
func (p *powered) pull(t *testing.T, lane powerLane, img poweredImage) error {
	if lane == laneCRI {
		_, err := p.cri.PullImage(p.powered, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: img.ref}})
		return err
	}
	args := []string{"--address", p.daemon.Address, "--namespace", string(lane), "images", "pull"}
	if p.stock {
		args = append(args, "--hosts-dir", p.hosts)
	}
	// Not daemon.TryCtr: a client of a machine without power is gone, too.
	cmd := exec.CommandContext(p.powered, binaries.Path(t, binaries.Ctr), append(args, img.ref)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ctr: %w: %s", err, out)
	}
	return nil
}

func (p *powered) wantPull(t *testing.T, lane powerLane, img poweredImage) {
	t.Helper()
	if err := p.pull(t, lane, img); err != nil {
		t.Errorf("%s pulls %s: got %v, want no error", lane, img.ref, err)
	}
}

// removeSome removes images, some with the garbage collection that follows and some before it.
func (p *powered) removeSome(t *testing.T, random *rand.Rand) {
	t.Helper()
	for _, lane := range []powerLane{laneCRI, laneCtr} {
		ctx := namespaces.WithNamespace(t.Context(), string(lane))
		all := random.IntN(3) == 0
		for _, img := range p.all() {
			if !all && random.IntN(2) == 0 {
				continue
			}
			var err error
			if lane == laneCRI {
				_, err = p.cri.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: img.ref}})
			} else {
				err = p.daemon.Client().ImageService().Delete(ctx, img.ref)
			}
			if err != nil && !errdefs.IsNotFound(err) {
				t.Errorf("remove %s: %v", img.ref, err)
			}
		}
	}
}

// wantListed checks that images are there under their names.
func (p *powered) wantListed(t *testing.T, lane powerLane, images ...poweredImage) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), string(lane))
	for _, img := range images {
		got, err := p.daemon.Client().ImageService().Get(ctx, img.ref)
		if err != nil || got.Target.Digest != img.Digest {
			t.Errorf("%s: got image %s %v of %s, want %s", lane, got.Target.Digest, err, img.ref, img.Digest)
		}
		if lane != laneCRI {
			continue
		}
		status, err := p.cri.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: img.ref}})
		if want := img.For("linux/amd64").ConfigDigest.String(); err != nil || status.GetImage().GetId() != want {
			t.Errorf("CRI: got image %q %v of %s, want %s", status.GetImage().GetId(), err, img.ref, want)
		}
	}
}

// damage returns everything in which containerd's images and blobs differ from their source, nil if there is nothing.
func (p *powered) damage(t *testing.T) error {
	t.Helper()
	p.collect(t) // or what is to go may go while it is read
	var errs []error
	for _, lane := range []powerLane{laneCRI, laneCtr} {
		ctx := namespaces.WithNamespace(t.Context(), string(lane))
		list, err := p.daemon.Client().ListImages(ctx)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[digest.Digest]bool{}
		for _, listed := range list {
			if seen[listed.Target().Digest] {
				continue
			}
			seen[listed.Target().Digest] = true
			if err := p.compare(ctx, listed); err != nil {
				errs = append(errs, fmt.Errorf("image %s %s:\n%w", lane, listed.Name(), err))
			}
		}
		errs = append(errs, p.rehash(ctx))
	}
	return errors.Join(errs...)
}

// compare compares what containerd has of an image with its source: that all content is there, and the root file
// system. That content is what its digest says is [powered.rehash]'s to find out.
func (p *powered) compare(ctx context.Context, listed containerd.Image) error {
	pushed := p.find(listed.Target().Digest)
	if pushed == nil {
		return fmt.Errorf("got %s, want an image that was pushed", listed.Target().Digest)
	}
	img := pushed.For("linux/amd64")
	store := p.daemon.Client().ContentStore()
	var errs []error
	blobs := []digest.Digest{pushed.Digest, img.Digest, img.ConfigDigest}
	diffs := make([]digest.Digest, 0, len(img.Layers))
	for _, l := range img.Layers {
		blobs, diffs = append(blobs, l.Digest), append(diffs, l.DiffID)
	}
	for _, blob := range blobs {
		if _, err := store.Info(ctx, blob); err != nil {
			errs = append(errs, err)
		}
	}
	snapshotter := p.daemon.Client().SnapshotService(p.snapshotter)
	const key = "compare"
	mounts, err := snapshotter.View(ctx, key, identity.ChainID(diffs).String(),
		snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().Format(time.RFC3339)}))
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, mount.WithReadonlyTempMount(ctx, mounts, img.Compare), snapshotter.Remove(ctx, key))
	return errors.Join(errs...)
}

// rehash reads every blob of a namespace.
func (p *powered) rehash(ctx context.Context) error {
	store := p.daemon.Client().ContentStore()
	var errs []error
	err := store.Walk(ctx, func(info content.Info) error {
		data, err := content.ReadBlob(ctx, store, ocispec.Descriptor{Digest: info.Digest, Size: info.Size})
		if err == nil && digest.FromBytes(data) != info.Digest {
			err = fmt.Errorf("got %d bytes of %s, want %d", len(data), digest.FromBytes(data), info.Size)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("blob %s: %w", info.Digest, err))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// waitIngest waits until a download is in flight that has something.
func (p *powered) waitIngest(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		files, _ := filepath.Glob(filepath.Join(p.daemon.Root, "io.containerd.content.v1.content/ingest/*/data"))
		for _, file := range files {
			if info, err := os.Stat(file); err == nil && info.Size() > 1<<19 {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("got ingests %v after 10s, want one that grows", files)
		}
	}
}

// collect waits for garbage collection.
func (p *powered) collect(t *testing.T) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), "default")
	manager := p.daemon.Client().LeasesService()
	lease, err := manager.Create(ctx, leases.WithID("collect"))
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.Delete(ctx, lease, leases.SynchronousDelete); err != nil {
		t.Fatal(err)
	}
}

// wantNothingLeft checks that pulls which were interrupted left nothing: no lease, no ingest, no blob. Clients make
// leases of their own, for a day, and so many may be there of those that were caught before their pull began or after
// it had ended; they are removed.
func (p *powered) wantNothingLeft(t *testing.T, clients int) {
	t.Helper()
	p.collect(t)
	for _, lane := range []powerLane{laneCRI, laneCtr} {
		ctx := namespaces.WithNamespace(t.Context(), string(lane))
		manager := p.daemon.Client().LeasesService()
		left, err := manager.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i, lease := range left {
			if lane == laneCRI || i >= clients || lease.Labels["io.berth.pull"] != "" {
				t.Errorf("%s: got lease %v, want %d of clients at most", lane, lease, clients)
			}
			if err := manager.Delete(ctx, lease); err != nil {
				t.Error(err)
			}
		}
		ingests, err := p.daemon.Client().ContentStore().ListStatuses(ctx)
		if err != nil || len(ingests) > 0 {
			t.Errorf("%s: got ingests %v %v, want none", lane, ingests, err)
		}
	}
	root := p.daemon.Root
	if dirs, _ := filepath.Glob(filepath.Join(root, "io.containerd.content.v1.content/ingest/*")); len(dirs) > 0 {
		t.Errorf("got ingests %v on disk, want none", dirs)
	}
	blobs := map[string]bool{}
	for _, lane := range []powerLane{laneCRI, laneCtr} {
		ctx := namespaces.WithNamespace(t.Context(), string(lane))
		if err := p.daemon.Client().ContentStore().Walk(ctx, func(info content.Info) error {
			blobs[info.Digest.Encoded()] = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(root, "io.containerd.content.v1.content/blobs/*/*"))
	for _, file := range files {
		if !blobs[filepath.Base(file)] {
			t.Errorf("got blob %s on disk, want none that containerd does not know", file)
		}
	}
}

// wantNoMoreDisk checks that the disk is used as if all images had been pulled once, without any accident.
func (p *powered) wantNoMoreDisk(t *testing.T, lanes []powerLane) {
	t.Helper()
	p.collect(t)
	got := p.used(t)
	p.daemon.Stop(t)
	p.daemon = p.newDaemon(t, filepath.Join(p.disk.Dir, "clean"))
	p.start(t)
	for _, lane := range lanes {
		for _, img := range p.all() {
			p.wantPull(t, lane, img)
		}
	}
	p.collect(t)
	clean := p.used(t)
	t.Logf("used %d KiB of disk, %.3f of a clean pull", got>>10, float64(got)/float64(clean))
	if float64(got) > 1.05*float64(clean) {
		t.Errorf("got %d bytes of disk used, want at most 1.05 of the %d of a clean pull", got, clean)
	}
}

// used returns the bytes that files below containerd's root take on disk.
func (p *powered) used(t *testing.T) (sum int64) {
	t.Helper()
	fsys, err := os.Open(p.disk.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	if err := unix.Syncfs(int(fsys.Fd())); err != nil { // what is not written has no blocks yet
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	if err := filepath.WalkDir(p.daemon.Root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		if !seen[stat.Ino] {
			seen[stat.Ino] = true
			sum += stat.Blocks * 512
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return sum
}
