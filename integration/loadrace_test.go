// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestPullDuringLoad has CRI pull images while they are loaded (L13). There is no registry: each pull waits for the load.
func TestPullDuringLoad(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{CRI: true, Level: "info"})
	imgs := []*image.Image{large(30, 2), large(40, 2)}
	image.WriteFile(t, filepath.Join(l.folder, "a.tar"), image.Tar(image.OCI([]image.Named{imgs[0].Name("quay.io/a:1")})))
	image.WriteFile(t, filepath.Join(l.folder, "b.tgz"), image.Gzip(image.Tar(image.OCI([]image.Named{imgs[1].Name("quay.io/b:1")}))))
	round := l.runLoading(t, func(int) {})
	var pulls sync.WaitGroup
	for i := range 6 {
		pulls.Go(func() {
			if err := pullCRI(t, l.Daemon, []string{"quay.io/a:1", "quay.io/b:1"}[i%2]); err != nil {
				t.Errorf("pull %d: %v", i, err)
			}
		})
	}
	pulls.Wait()
	l.waitRound(t, round)
	if out, good := l.status(t); !good {
		t.Errorf("got status\n%s", out)
	}
	for i, name := range []string{"quay.io/a:1", "quay.io/b:1"} {
		if got := targets(t, l.Daemon, "k8s.io")[name]; got != imgs[i].Digest {
			t.Errorf("%s: got %s, want %s", name, got, imgs[i].Digest)
		}
		if err := imgs[i].Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
			t.Error(err)
		}
	}
	checkClean(t, l.node, "k8s.io")
}

// TestPullPastLoad has CRI, and another client in CRI's namespace, pull an image from a registry, since a rule says so, while it is
// loaded from a bundle (L13): when a load has begun, and when the pull has half of a layer that the load wants too. Both succeed, and
// what is there in the end is the image, once.
func TestPullPastLoad(t *testing.T) {
	daemon.RequireRoot(t)
	ref := "quay.io/both:1"
	for _, pack := range []struct {
		file string
		pack func([]byte) []byte
	}{{"a.tar", slices.Clone[[]byte]}, {"a.tgz", image.Gzip}} {
		for _, pullFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, pull first %t", pack.file, pullFirst), func(t *testing.T) {
				img := large(2100, 2)
				reached, release := make(chan struct{}), make(chan struct{})
				half := 0
				if pullFirst {
					half = 1
				}
				r := registry.Start(t, registry.Options{Middleware: registry.On("GET", "*/blobs/"+img.Layers[0].Digest.String(), half,
					func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
						blob := img.Layers[0].Blob
						w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
						_, _ = w.Write(blob[:len(blob)/2])
						_ = http.NewResponseController(w).Flush()
						close(reached)
						<-release
						_, _ = w.Write(blob[len(blob)/2:])
					})})
				img.Push(t, r, "p/both:1")
				l := newLoading(t, entry(t, r, "p")+rule("quay.io", r.Host()+"/p")+"bundle = false\n", daemon.Options{CRI: true, Level: "info"})
				bundle := pack.pack(image.Tar(image.OCI([]image.Named{img.Name(ref)})))
				var pulls sync.WaitGroup
				pull := func() {
					ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
					for i := range 4 {
						pulls.Go(func() {
							err := transferIn(ctx, l.Daemon, ref)
							if i%2 == 0 {
								err = errors.Join(err, pullCRI(t, l.Daemon, ref))
							}
							if err != nil {
								t.Errorf("pull %d: %v", i, err)
							}
						})
					}
				}
				l.start(t)
				round := l.rounds()
				if pullFirst {
					pull()
					<-reached
				}
				l.put(t, pack.file, bundle)
				if pullFirst {
					within(t, 20*time.Second, "load", func() bool { out, _ := l.status(t); return strings.Contains(out, ": loading") })
					time.Sleep(300 * time.Millisecond) // and it waits for the layer
					close(release)
				} else {
					within(t, 20*time.Second, "load", func() bool { return l.begun() || l.rounds() > round }) // it may be over by then
					pull()
				}
				pulls.Wait()
				l.waitRound(t, round)
				l.waitGood(t)
				if got := targets(t, l.Daemon, "k8s.io")[ref]; got != img.Digest {
					t.Errorf("got %q, want %s", got, img.Digest)
				}
				if got := len(r.Log.Match("", "/v2/p/both/manifests/*")); got == 0 {
					t.Errorf("got requests\n%s\nwant the registry asked", r.Log.Lines())
				}
				for d := range img.Blobs() {
					if got := r.Log.Match("GET", "*/"+d.String()); len(got) > 1 {
						t.Errorf("got requests %v of one blob, want one at most", got)
					}
				}
				if err := img.Compare(l.Rootfs(t, "k8s.io", ref)); err != nil {
					t.Error(err)
				}
				checkClean(t, l.node, "k8s.io")
				l.wantContent(t, img)
				if got := strings.Count(l.Ctr(t, "-n", "k8s.io", "snapshots", "ls"), "Committed"); got != len(img.Layers) {
					t.Errorf("got %d snapshots, want one for each of %d layers", got, len(img.Layers))
				}
				l.waitPinned(t, ref, true)
			})
		}
	}
}

// TestManyOfOne loads one image from five bundles, and one layer from twenty (L12). What they share is stored once.
func TestManyOfOne(t *testing.T) {
	daemon.RequireRoot(t)
	shared := image.NewLayer(image.Random("shared", 50, 3<<20))
	one := image.New(image.Config{Layers: []image.Layer{shared}})
	l := newLoading(t, "", daemon.Options{Level: "info"}, "parallel = 8")
	for i := range 5 {
		image.WriteFile(t, filepath.Join(l.folder, fmt.Sprintf("one%d.tar", i)), image.Tar(image.OCI([]image.Named{one.Name("quay.io/one:1")})))
	}
	for i := range 15 {
		img := image.New(image.Config{Layers: []image.Layer{shared, image.NewLayer(image.Random("own", uint64(60+i), 1000))}})
		data := image.Tar(image.OCI([]image.Named{img.Name(fmt.Sprintf("quay.io/many/%d:1", i))}))
		if i%3 == 0 {
			data = image.Zstd(data)
		}
		image.WriteFile(t, filepath.Join(l.folder, fmt.Sprintf("many%d.tar", i)), data)
	}
	l.start(t)
	if out, good := l.status(t); !good {
		t.Fatalf("got status\n%s\n%s", out, l.Log.Tail(30))
	}
	if got := len(targets(t, l.Daemon, "k8s.io")); got != 2*16 {
		t.Errorf("got %d records, want two of each of 16 images", got)
	}
	within(t, 20*time.Second, "one snapshot for each of 16 images", func() bool { // once the first start has looked at them all
		return strings.Count(l.Ctr(t, "-n", "k8s.io", "snapshots", "ls"), "\n") == 1+16
	})
	checkClean(t, l.node, "k8s.io")
}

// TestOtherCopy loads an image of two bundles, of which the first is damaged, from the second.
func TestOtherCopy(t *testing.T) {
	daemon.RequireRoot(t)
	for _, pack := range []func([]byte) []byte{slices.Clone[[]byte], image.Gzip} {
		l := newLoading(t, "", daemon.Options{Level: "info"})
		img, bundle := bundleOf(90, "quay.io/copy:1")
		bad := slices.Clone(bundle)
		copy(bad[bytes.Index(bad, img.Layers[0].Blob)+1000:], "XXXX")
		first := image.WriteFile(t, filepath.Join(l.folder, "a.tar"), pack(bad))
		image.WriteFile(t, filepath.Join(l.folder, "b.tar"), pack(bundle))
		l.start(t)
		l.becomesLoaded(t, "quay.io/copy:1", img)
		// Unless the second was faster, so that the first was not needed.
		if out, good := l.status(t); !good && !strings.Contains(section(out, first), "does not match its name") {
			t.Errorf("got status\n%s\nwant the fault of %s", out, first)
		}
	}
}

// TestThirdCopy loads an image of three bundles, of which the first two are damaged, from the third. It is that one's after
// something else was loaded by hand, too.
func TestThirdCopy(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{Level: "info"})
	const ref = "quay.io/copy:1"
	img, bundle := bundleOf(90, ref)
	bad := slices.Clone(bundle)
	copy(bad[bytes.Index(bad, img.Layers[0].Blob)+1000:], "XXXX")
	l.put(t, "a.tar", bad)
	l.put(t, "b.tar", bad)
	third := l.put(t, "c.tar", bundle)
	_, slow := bundleOf(92, "quay.io/slow:1") // so that it is listed when these have failed
	l.put(t, "d.tar", image.Gzip(slow))
	l.start(t)
	l.becomesLoaded(t, ref, img)
	other := image.WriteFile(t, filepath.Join(openDir(t), "other.tar"), image.Tar(image.OCI([]image.Named{oneLayer(91, "quay.io/other:1")})))
	for range 2 {
		if out, _ := l.status(t); !slices.Contains([]string{"loaded", "present"}, stateOf(section(out, third), ref+" "+img.Digest.String())) {
			t.Errorf("got status\n%s\nwant the image loaded from %s", out, third)
		}
		if i, err := l.get(t, ref); err != nil || i.Labels[bundleLabel] != third {
			t.Errorf("got labels %v %v, want those of %s", i.Labels, err, third)
		}
		if err := pullCtr(t, l.Daemon, ref); err != nil {
			t.Error(err)
		}
		if lines := l.Log.Lines("pulled image", "source="+third); len(lines) == 0 {
			t.Errorf("got pulls\n%s\nwant one from %s", strings.Join(l.Log.Lines("pulled image"), "\n"), third)
		}
		if _, errs, code := berth(t, "load", "--address", l.Address, other); code != 0 {
			t.Errorf("load: got %d %s", code, errs)
		}
	}
}

// TestRemoveDuringLoad removes images, and collects garbage, all the time while they are loaded (L14). The next
// start makes them whole.
func TestRemoveDuringLoad(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{Level: "info"})
	shared := image.NewLayer(image.Random("shared", 80, 1<<20))
	imgs := map[string]*image.Image{}
	var plain, packed []image.Named
	for i := range 6 {
		img := image.New(image.Config{Layers: []image.Layer{shared, image.NewLayer(image.Random("own", uint64(81+i), 2<<20))}})
		name := fmt.Sprintf("quay.io/rm/%d:1", i)
		imgs[name] = img
		if i%2 == 0 {
			plain = append(plain, img.Name(name))
		} else {
			packed = append(packed, img.Name(name))
		}
	}
	if err := l.Run(t); err != nil {
		t.Fatal(err)
	}
	l.waitRound(t, 0)
	stop := make(chan struct{})
	var remove sync.WaitGroup
	removed := 0
	remove.Go(func() {
		ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
		store := l.Client().ImageService()
		for {
			select {
			case <-stop:
				return
			default:
			}
			list, err := store.List(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			for _, i := range list {
				if err := store.Delete(ctx, i.Name, images.SynchronousDelete()); err == nil {
					removed++
				} else if !errdefs.IsNotFound(err) {
					t.Error(err)
				}
			}
			collectGarbage(t, l.Client(), "k8s.io")
		}
	})
	round := l.rounds()
	place(t, filepath.Join(l.folder, "a.tar"), image.Tar(image.OCI(plain)))
	place(t, filepath.Join(l.folder, "b.tar.zst"), image.Zstd(image.Tar(image.OCI(packed))))
	l.waitRound(t, round)
	time.Sleep(500 * time.Millisecond)
	close(stop)
	remove.Wait()
	if removed == 0 {
		t.Error("got no image removed, want some")
	}
	l.restart(t)
	if got := len(targets(t, l.Daemon, "k8s.io")); got != 2*len(imgs) {
		t.Errorf("got %d records, want two of each of %d images", got, len(imgs))
	}
	if out, good := l.status(t); !good {
		t.Errorf("got status\n%s", out)
	}
	collectGarbage(t, l.Client(), "k8s.io")
	for name, img := range imgs {
		if err := img.Compare(l.Rootfs(t, "k8s.io", name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if lines := l.Log.Lines("level=error", "bundle"); len(lines) > 0 {
		t.Logf("errors while images were removed:\n%s", strings.Join(lines, "\n"))
	}
	checkClean(t, l.node, "k8s.io")
}
