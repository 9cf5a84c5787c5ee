// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestDownloadLimit observes how many layers are asked for at once.
func TestDownloadLimit(t *testing.T) {
	daemon.RequireRoot(t)
	var layers []image.Layer
	for i := range uint64(8) {
		layers = append(layers, image.NewLayer(image.Random(fmt.Sprint("f", i), 820+i, 2000)))
	}
	img := image.New(image.Config{Layers: layers})
	var now, most, want atomic.Int64
	// Each waits for as many as are wanted, and then for one too many.
	slow := registry.On("GET", "*/blobs/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, img.ConfigDigest.String()) { // which comes before the layers
			next.ServeHTTP(w, r)
			return
		}
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		for end := time.Now().Add(10 * time.Second); most.Load() < want.Load() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(60 * time.Millisecond)
		next.ServeHTTP(w, r)
	})
	r := registry.Start(t, registry.Options{Middleware: slow})
	for _, tc := range []struct {
		setting string
		want    int64
	}{{"", 3}, {"max_concurrent_downloads = 1", 1}, {"max_concurrent_downloads = 5", 5}} {
		t.Run(fmt.Sprint(tc.want), func(t *testing.T) {
			n := startNode(t, entry(t, r, "edge"), daemon.Options{CRI: true, Config: criSetting(tc.setting)})
			img.Push(t, r, "edge/registry.test/a:1")
			most.Store(0)
			want.Store(tc.want)
			if err := pullCRI(t, n.Daemon, "registry.test/a:1"); err != nil {
				t.Fatal(err)
			}
			if got := most.Load(); got != tc.want {
				t.Errorf("got %d downloads at once, want %d", got, tc.want)
			}
			if err := img.Compare(n.Rootfs(t, "k8s.io", "registry.test/a:1")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDiscardUnpackedLayers looks for the layers after garbage was collected, with the setting and without; a
// container runs from the image in both cases.
func TestDiscardUnpackedLayers(t *testing.T) {
	daemon.RequireRoot(t)
	const pause, ref = "registry.k8s.io/pause:3.10", "registry.test/hello:1"
	r := registry.Start(t, registry.Options{})
	image.Pause(t).Push(t, r, "edge/"+pause)
	img := image.Hello(t, "still", "here")
	img.Push(t, r, "edge/"+ref)
	for _, discard := range []bool{false, true} {
		t.Run(fmt.Sprint(discard), func(t *testing.T) {
			n := startNode(t, entry(t, r, "edge"), daemon.Options{
				CRI: true, Pause: pause, Config: criSetting(fmt.Sprintf("discard_unpacked_layers = %t", discard)),
			})
			if err := pullCRI(t, n.Daemon, ref); err != nil {
				t.Fatal(err)
			}
			ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
			collectGarbage(t, n.Client(), "k8s.io")
			for i, l := range img.Layers {
				if _, err := n.Client().ContentStore().Info(ctx, l.Digest); (err != nil) != discard {
					t.Errorf("layer %d: got %v, want it gone: %t", i, err, discard)
				}
			}
			for _, kept := range []string{img.Digest.String(), img.ConfigDigest.String()} {
				if !strings.Contains(n.Ctr(t, "--namespace", "k8s.io", "content", "ls", "-q"), kept) {
					t.Errorf("got no blob %s, want manifest and config kept", kept)
				}
			}
			pod, err := n.RunPod(t, "pod")
			if err != nil {
				t.Fatal(err)
			}
			if got, want := pod.Run(t, "hello", ref), "hello still here\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			// The image is whole for CRI, also after a restart, and a second pull fetches no layer that is unpacked.
			n.Restart(t, nil)
			r.Log.Reset()
			if err := pullCRI(t, n.Daemon, ref); err != nil {
				t.Error(err)
			}
			if got := r.Log.Match("GET", "*/blobs/*"); len(got) != 0 {
				t.Errorf("got requests %v, want none", got)
			}
			pod.Remove(t)
		})
	}
}

// collectGarbage has containerd collect, and waits for it.
func collectGarbage(t *testing.T, c *containerd.Client, namespace string) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), namespace)
	lease, err := c.LeasesService().Create(ctx, leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.LeasesService().Delete(ctx, lease, leases.SynchronousDelete); err != nil {
		t.Fatal(err)
	}
}
