// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

const loaderURI = "io.containerd.loader.v1.bundle"

// loaderStanza is a drop-in with the loader's stanza.
func loaderStanza(text string) string {
	return fmt.Sprintf("version = 3\n[plugins.%q]\n%s\n", loaderURI, text)
}

// loading is a node that loads the bundles of a folder.
type loading struct {
	node
	folder  string
	dropIns map[string]string // of containerd's configuration, by file name
}

// newLoading prepares a node whose loader's stanza has further lines.
func newLoading(t testing.TB, berth string, opts daemon.Options, lines ...string) loading {
	t.Helper()
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	l := loading{folder: folder, dropIns: map[string]string{}}
	l.stanza(lines...)
	opts.DropIns = l.dropIns
	l.node = newNode(t, berth, opts)
	return l
}

// stanza is the loader's from the next start on, with further lines.
func (l loading) stanza(lines ...string) {
	l.dropIns["20-loader.toml"] = loaderStanza(fmt.Sprintf("paths = [%q]\n%s", l.folder, strings.Join(lines, "\n")))
}

// newLoadingOf prepares a node that loads the bundles of several paths, of which the first is its folder.
func newLoadingOf(t testing.TB, opts daemon.Options, paths ...string) loading {
	t.Helper()
	opts.DropIns = map[string]string{"20-loader.toml": loaderStanza(fmt.Sprintf("paths = [\"%s\"]", strings.Join(paths, `", "`)))}
	return loading{newNode(t, "", opts), paths[0], opts.DropIns}
}

// start starts the node and waits until every bundle was worked on.
func (l loading) start(t testing.TB) {
	t.Helper()
	before := l.rounds()
	if err := l.Run(t); err != nil {
		t.Fatalf("start: %v\n%s", err, l.Log.Tail(40))
	}
	l.waitRound(t, before)
}

// runLoading starts the node, does what is to be done while it loads, and returns how many rounds there were before. Where there
// is much else to do everything may be loaded by then: the node is started again with nothing there.
func (l loading) runLoading(t testing.TB, do func(before int)) (before int) {
	t.Helper()
	for range 5 {
		before = l.rounds()
		if err := l.Run(t); err != nil {
			t.Fatalf("start: %v\n%s", err, l.Log.Tail(40))
		}
		if do(before); l.rounds() == before {
			return before
		}
		l.Kill()
		if err := os.RemoveAll(l.Root); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("got everything loaded five times, want to meet a load that goes on")
	return before
}

// runBegun starts the node, and returns once its load writes blobs. Where that was over before it was seen the node is started again
// with nothing there.
func (l loading) runBegun(t testing.TB) {
	t.Helper()
	for range 5 {
		before := l.rounds()
		if err := l.Run(t); err != nil {
			t.Fatalf("start: %v\n%s", err, l.Log.Tail(40))
		}
		for l.rounds() == before {
			if l.begun() {
				return
			}
			time.Sleep(time.Millisecond)
		}
		l.Kill()
		if err := os.RemoveAll(l.Root); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("got everything loaded five times, want to meet a load that writes")
}

func (l loading) restart(t testing.TB) {
	t.Helper()
	l.Stop(t)
	l.start(t)
}

// rounds is how often every bundle was worked on.
func (l loading) rounds() int { return len(l.Log.Lines(`msg="bundles are loaded"`)) }

// waitRound waits until every bundle was worked on once more than before.
func (l loading) waitRound(t testing.TB, before int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); l.rounds() <= before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("bundles are not loaded:\n%s", l.Log.Tail(60))
		}
	}
}

// status is what `berth status` prints, and whether it found no fault.
func (l loading) status(t testing.TB) (string, bool) {
	t.Helper()
	out, errs, code := berth(t, "status", "--address", l.Address)
	return out + errs, code == 0
}

// formats are the ways in which the same two images are shipped.
var formats = []struct {
	name  string
	write func(t testing.TB, path string, images []image.Named)
}{
	{"oci-archive", func(t testing.TB, path string, images []image.Named) {
		image.WriteFile(t, path+".tar", image.Tar(image.OCI(images)))
	}},
	{"oci-archive.gz", func(t testing.TB, path string, images []image.Named) {
		image.WriteFile(t, path+".tar", image.Gzip(image.Tar(image.OCI(images))))
	}},
	{"oci-archive.zst", func(t testing.TB, path string, images []image.Named) {
		image.WriteFile(t, path+".tar", image.Zstd(image.Tar(image.OCI(images))))
	}},
	{"oci-layout", func(t testing.TB, path string, images []image.Named) {
		image.WriteLayout(t, path, image.OCI(images))
	}},
	{"docker-save", func(t testing.TB, path string, images []image.Named) {
		image.WriteFile(t, path+".tar", image.Tar(image.DockerSave(images)))
	}},
	{"docker-save.gz", func(t testing.TB, path string, images []image.Named) {
		image.WriteFile(t, path+".tar.gz", image.Gzip(image.Tar(image.DockerSave(images))))
	}},
	{"crane", func(t testing.TB, path string, images []image.Named) {
		image.WriteFile(t, path+".tar", image.Tar(image.Crane(images)))
	}},
	{"docker-save 25", func(t testing.TB, path string, images []image.Named) {
		image.WriteFile(t, path+".tar", image.Tar(image.Docker25(images)))
	}},
}

// TestLoad loads a bundle in every format, and compares with what stock's `ctr image import` makes of it.
func TestLoad(t *testing.T) {
	daemon.RequireRoot(t)
	shared := image.NewLayer(image.Program(t))
	bundled := []image.Named{
		image.New(image.Config{Layers: []image.Layer{shared, image.NewLayer(image.Random("a", 1, 50000))}}).Name("registry.k8s.io/a:1", "registry.k8s.io/a:2"),
		image.New(image.Config{Layers: []image.Layer{shared, image.NewLayer(image.Random("b", 2, 50000))}}).Name("quay.io/team/b:1"),
	}
	stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock)})
	for i, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			l := newLoading(t, "", daemon.Options{CRI: true})
			f.write(t, filepath.Join(l.folder, "bundle"), bundled)
			l.start(t)
			out, good := l.status(t)
			if !good {
				t.Fatalf("got status\n%s\n%s", out, l.Log.Tail(40))
			}
			namespace := fmt.Sprintf("k8s%d", i)
			path := filepath.Join(l.folder, "bundle")
			if f.name == "oci-layout" {
				path = image.WriteFile(t, filepath.Join(t.TempDir(), "b.tar"), image.Tar(image.OCI(bundled)))
			} else if found, _ := filepath.Glob(path + "*"); len(found) == 1 {
				path = found[0]
			}
			stock.Ctr(t, "-n", namespace, "image", "import", path)
			want := targets(t, stock, namespace)
			got := targets(t, l.Daemon, "k8s.io")
			for name, d := range want {
				if got[name] != d {
					t.Errorf("%s: got %s, stock %s", name, got[name], d)
				}
			}
			for _, n := range bundled {
				for _, name := range n.Names {
					if want[name] == "" {
						t.Errorf("stock has no %s", name)
					}
					repository, _, _ := strings.Cut(name, ":")
					if d := repository + "@" + want[name].String(); got[d] != want[name] {
						t.Errorf("%s: got %q", d, got[d])
					}
					if err := n.Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			if left := l.Ctr(t, "-n", "k8s.io", "leases", "ls", "-q"); left != "" {
				t.Errorf("got leases %q, want none", left)
			}
			if left := l.Ctr(t, "-n", "k8s.io", "content", "active"); strings.Count(left, "\n") > 1 {
				t.Errorf("got ingests %q, want none", left)
			}
		})
	}
}

// targets are the digests of the images of a namespace by their names, but for those that CRI names by an id.
func targets(t testing.TB, d *daemon.Daemon, namespace string) map[string]digest.Digest {
	t.Helper()
	all := map[string]digest.Digest{}
	for _, i := range recorded(t, d, namespace) {
		if !strings.HasPrefix(i.Name, "sha256:") {
			all[i.Name] = i.Target.Digest
		}
	}
	return all
}

func recorded(t testing.TB, d *daemon.Daemon, namespace string) []images.Image {
	t.Helper()
	list, err := d.Client().ImageService().List(namespaces.WithNamespace(t.Context(), namespace))
	if err != nil {
		t.Fatal(err)
	}
	return list
}
