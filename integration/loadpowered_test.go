// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/opencontainers/image-spec/identity"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/powercut"
)

// loadPowered is a containerd whose root is a disk that loses its power, and that loads bundles. These are elsewhere.
type loadPowered struct {
	powered
	folder  string
	root    string // on the disk
	shipped map[string]*image.Image
	started int // rounds of loading before the last start
	logged  int // bytes of the log before it: without power there are errors
}

func newLoadPowered(t *testing.T, binary string) *loadPowered {
	t.Helper()
	p := &loadPowered{folder: openDir(t), root: "root", shipped: map[string]*image.Image{}}
	p.binary, p.snapshotter = binary, "overlayfs"
	p.disk = powercut.New(t, 512<<20)
	all := powerImages()
	named := func(which ...int) (bundled []image.Named) {
		for _, i := range which {
			name := fmt.Sprintf("registry.test/load/%d:1", i)
			p.shipped[name] = all[i]
			bundled = append(bundled, all[i].Name(name))
		}
		return bundled
	}
	image.WriteFile(t, filepath.Join(p.folder, "oci.tar"), image.Tar(image.OCI(named(0, 3, 5))))
	image.WriteFile(t, filepath.Join(p.folder, "docker.tar"), image.Tar(image.DockerSave(named(1, 2))))
	image.WriteFile(t, filepath.Join(p.folder, "packed.tar.gz"), image.Gzip(image.Tar(image.OCI(named(4)))))
	return p
}

// openDir is a directory that bundles are read from.
func openDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start starts containerd on the disk, or again. The load begins, and may take longer.
func (p *loadPowered) start(t *testing.T) {
	t.Helper()
	if p.daemon == nil {
		p.daemon = daemon.New(t, daemon.Options{Binary: p.binary, Root: filepath.Join(p.disk.Dir, p.root), Level: "info",
			DropIns: map[string]string{
				"10-berth.toml":  stanza("config_path = []"),
				"20-loader.toml": loaderStanza(fmt.Sprintf("paths = [%q]", p.folder)),
			}})
	}
	p.started, p.logged = p.rounds(), len(p.daemon.Log.String())
	if err := p.daemon.Run(t); err != nil {
		t.Fatalf("start containerd: %v\n%s", err, p.daemon.Log.Tail(20))
	}
}

func (p *loadPowered) rounds() int { return len(p.daemon.Log.Lines(`msg="bundles are loaded"`)) }

// waitLoaded waits until every bundle was worked on since the start. It makes no system call on the disk.
func (p *loadPowered) waitLoaded(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); p.rounds() == p.started; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("bundles are not loaded:\n%s", p.daemon.Log.Tail(30))
		}
	}
}

// lose kills containerd, and cuts its power before if asked to.
func (p *loadPowered) lose(t *testing.T, cutPower bool) {
	t.Helper()
	if cutPower {
		p.disk.Cut(t)
	}
	p.daemon.Kill()
	if cutPower {
		p.disk.Restore(t)
	}
}

// mended are the lines of the log that say that something was damaged.
func (p *loadPowered) mended() []string {
	return append(p.daemon.Log.Lines("unpacked again"), p.daemon.Log.Lines("blob is damaged")...)
}

func (p *loadPowered) wantNothingMended(t *testing.T) {
	t.Helper()
	if lines := p.mended(); len(lines) > 0 {
		t.Errorf("got damage in what was listed, want none:\n%s", strings.Join(lines, "\n"))
	}
	for line := range strings.Lines(p.daemon.Log.String()[p.logged:]) {
		if strings.Contains(line, "level=error") && (strings.Contains(line, "bundle") || strings.Contains(line, "update image store")) {
			t.Errorf("got an error of the loader, or of CRI for an image that is not whole: %s", line)
		}
	}
}

// wantWhole checks that all images are listed under all their names, that everything that is listed is whole byte for
// byte, and that nothing else is there.
func (p *loadPowered) wantWhole(t *testing.T) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), string(laneCRI))
	names := map[string]int{}
	for _, listed := range recorded(t, p.daemon, string(laneCRI)) {
		name, _, _ := strings.Cut(listed.Name, "@")
		if listed.Labels["io.cri-containerd.pinned"] != "pinned" {
			t.Errorf("image %s is not pinned", listed.Name)
		}
		if strings.HasPrefix(name, "sha256:") {
			continue
		}
		if listed.Name != name {
			name += ":1"
		}
		names[name]++
		shipped, ok := p.shipped[name]
		if !ok {
			t.Errorf("got image %s, want none of that name", listed.Name)
			continue
		}
		if listed.Name == name {
			if err := p.compareWith(ctx, listed, shipped.For("linux/amd64")); err != nil {
				t.Errorf("image %s:\n%v", listed.Name, err)
			}
		}
	}
	for name := range p.shipped {
		if names[name] != 2 {
			t.Errorf("got %d records of %s, want one by its tag and one by its digest", names[name], name)
		}
	}
	p.collect(t)
	if err := p.rehash(ctx); err != nil {
		t.Error(err)
	}
	p.wantNothingLeft(t, 0)
}

// compareWith compares an image with what it was made from: all its content is there, and the root file system is the same.
func (p *loadPowered) compareWith(ctx context.Context, listed images.Image, with *image.Image) error {
	store := p.daemon.Client().ContentStore()
	platform := platforms.Default()
	manifest, err := images.Manifest(ctx, store, listed.Target, platform)
	if err != nil {
		return err
	}
	var errs []error
	for _, desc := range append(manifest.Layers, manifest.Config) {
		info, err := store.Info(ctx, desc.Digest)
		if err == nil && info.Size != desc.Size {
			err = fmt.Errorf("blob %s: got %d bytes, want %d", desc.Digest, info.Size, desc.Size)
		}
		errs = append(errs, err)
	}
	diffs, err := images.RootFS(ctx, store, manifest.Config)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	snapshotter := p.daemon.Client().SnapshotService(p.snapshotter)
	const key = "compare"
	mounts, err := snapshotter.View(ctx, key, identity.ChainID(diffs).String(),
		snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().Format(time.RFC3339)}))
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, mount.WithReadonlyTempMount(ctx, mounts, with.Compare), snapshotter.Remove(ctx, key))...)
}

// blobFile is the file that the content store keeps a blob in.
func (p *loadPowered) blobFile(info content.Info) string {
	return filepath.Join(p.daemon.Root, "io.containerd.content.v1.content/blobs/sha256", info.Digest.Encoded())
}
