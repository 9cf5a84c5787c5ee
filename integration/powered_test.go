// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"context"
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

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
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
	return daemon.New(t, daemon.Options{Binary: p.binary, Root: root, CRI: true, Level: "info", Config: config, Setup: boot(t)})
}

// boot has each start of a daemon be one after a boot of the machine, as it is when power was cut.
func boot(t *testing.T) func() error {
	file := filepath.Join(t.TempDir(), "boot_id")
	boots := 0
	return func() error {
		boots++
		if err := os.WriteFile(file, fmt.Appendf(nil, "00000000-0000-4000-8000-%012d\n", boots), 0o444); err != nil {
			return err
		}
		return unix.Mount(file, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")
	}
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
