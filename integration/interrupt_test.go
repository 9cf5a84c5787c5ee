// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// layered is an image of several layers, of which the last is the largest.
func layered(seed uint64) *image.Image {
	var layers []image.Layer
	for i, size := range []int{20_000, 40_000, 2_000_000} {
		layers = append(layers, image.NewLayer(image.Random(fmt.Sprint("file", i), seed+uint64(i), size)))
	}
	return image.New(image.Config{Layers: layers})
}

// checkClean waits until no lease and no ingest of pulls is left.
func checkClean(t *testing.T, n node, namespace string) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), namespace)
	var left string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		leases, err := n.Client().LeasesService().List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		collectGarbage(t, n.Client(), namespace)
		ingests, err := n.Client().ContentStore().ListStatuses(ctx)
		if err != nil {
			t.Fatal(err)
		}
		left = fmt.Sprint(leases, ingests)
		if len(leases)+len(ingests) == 0 {
			return
		}
	}
	t.Errorf("got leases and ingests %s 10s after the last pull, want none", left)
}

// TestCancel gives up a pull through CRI at twenty points (R26): the client has its answer within a second, nothing is
// left, and the next pull succeeds.
func TestCancel(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: ann, Delay: 20 * time.Millisecond})
	img := layered(210)
	const ref = "quay.io/a:1"
	img.Push(t, r, "p/"+ref)
	n := startNode(t, entry(t, r, "p", login("ann", "s3cret")), daemon.Options{CRI: true, Level: "info"})
	images, _ := n.CRI(t)
	spec := &cri.ImageSpec{Image: ref}
	canceled := 0
	for i := range 20 {
		limit := time.Duration(i) * 6 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		start := time.Now()
		_, err := images.PullImage(ctx, &cri.PullImageRequest{Image: spec})
		if took := time.Since(start); took > limit+time.Second {
			t.Errorf("got an answer after %s, want it within a second of giving up after %s", took, limit)
		}
		cancel()
		if err != nil {
			canceled++
		} else if _, err := images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: spec}); err != nil {
			t.Error(err)
		}
		collectGarbage(t, n.Client(), "k8s.io")
	}
	if canceled < 8 {
		t.Errorf("got %d pulls given up of 20, want more: the points do not cover a pull", canceled)
	}
	checkClean(t, n, "k8s.io")
	if err := pullCRI(t, n.Daemon, ref); err != nil {
		t.Fatal(err)
	}
	if err := img.Compare(n.Rootfs(t, "k8s.io", ref)); err != nil {
		t.Error(err)
	}
}

// TestKill ends the daemon with SIGKILL in the middle of a layer (R27). After the next start the lease of the pull is
// gone, and what it kept goes with the next collection of garbage; until then the next pull goes on from there.
func TestKill(t *testing.T) {
	daemon.RequireRoot(t)
	var release atomic.Bool
	reached := make(chan struct{}, 1)
	img := layered(220)
	last := img.Layers[2]
	half := registry.On("GET", "*/blobs/"+last.Digest.String(), -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if release.Load() {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(last.Blob)))
		_, _ = w.Write(last.Blob[:1_500_000]) // containerd writes by the mebibyte
		_ = http.NewResponseController(w).Flush()
		reached <- struct{}{}
		<-r.Context().Done()
	})
	r := registry.Start(t, registry.Options{Middleware: half})
	const ref = "quay.io/a:1"
	img.Push(t, r, "p/"+ref)
	n := startNode(t, entry(t, r, "p"), daemon.Options{CRI: true, // garbage is collected when the test says so
		Config: "version = 3\n[plugins.\"io.containerd.gc.v1.scheduler\"]\nstartup_delay = \"1h\"\n"})
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	done := []string{img.Layers[0].Digest.String(), img.Layers[1].Digest.String(), img.ConfigDigest.String()}

	kill := func() {
		t.Helper()
		pull := make(chan error, 1)
		go func() { pull <- pullCRI(t, n.Daemon, ref) }()
		<-reached
		within(t, 10*time.Second, "complete layers and half of the last", func() bool {
			content := n.Ctr(t, "--namespace", "k8s.io", "content", "ls", "-q")
			ingests, err := n.Client().ContentStore().ListStatuses(ctx)
			return err == nil && len(ingests) == 1 && ingests[0].Offset > 0 &&
				!slices.ContainsFunc(done, func(blob string) bool { return !strings.Contains(content, blob) })
		})
		if leases, err := n.Client().LeasesService().List(ctx, `labels."io.berth.pull"`); err != nil || len(leases) != 1 {
			t.Errorf("got leases %v %v of the pull, want one", leases, err)
		}
		n.Kill()
		<-pull
		if err := n.Run(t); err != nil {
			t.Fatal(err)
		}
		if leases, err := n.Client().LeasesService().List(ctx); err != nil || len(leases) != 0 {
			t.Errorf("got leases %v %v after the start, want none", leases, err)
		}
	}
	kill()
	checkNothingLeft(t, n)

	kill()
	release.Store(true)
	r.Log.Reset()
	if err := pullCRI(t, n.Daemon, ref); err != nil {
		t.Fatal(err)
	}
	for _, blob := range done {
		if got := r.Log.Match("GET", "*/blobs/"+blob); len(got) != 0 {
			t.Errorf("got requests %v of a blob that was complete, want none", got)
		}
	}
	var sent int64
	for _, req := range r.Log.Match("GET", "*/blobs/"+last.Digest.String()) {
		sent += req.Sent
	}
	if sent == 0 || sent >= int64(len(last.Blob)) {
		t.Errorf("got %d bytes of the last layer sent, want the rest of %d", sent, len(last.Blob))
	}
	if err := img.Compare(n.Rootfs(t, "k8s.io", ref)); err != nil {
		t.Error(err)
	}
	checkClean(t, n, "k8s.io")
}

// TestRegistryRestarts stops the registry in the middle of fifty pulls (R24). Each succeeds, or fails and succeeds
// when it is tried again; none hangs.
func TestRegistryRestarts(t *testing.T) {
	daemon.RequireRoot(t)
	var blobs atomic.Int64
	underWay := make(chan struct{})
	r := registry.Start(t, registry.Options{Users: ann, Delay: 10 * time.Millisecond,
		Middleware: registry.On("GET", "*/blobs/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if blobs.Add(1) == 5 {
				close(underWay)
			}
			next.ServeHTTP(w, r)
		})})
	const pulls = 50
	images := make([]*image.Image, pulls)
	for i := range images {
		images[i] = image.Small("linux/amd64", uint64(2000+2*i))
		images[i].Push(t, r, fmt.Sprintf("p/quay.io/a%d:1", i))
	}
	n := startNode(t, entry(t, r, "p", login("ann", "s3cret")), daemon.Options{Level: "info"})
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), "go"), 60*time.Second)
	defer cancel()
	var all sync.WaitGroup
	var failed atomic.Int64
	for i := range pulls {
		all.Go(func() {
			ref := fmt.Sprintf("quay.io/a%d:1", i)
			var err error
			for range 20 {
				if err = transferIn(ctx, n.Daemon, ref); err == nil {
					return
				}
				failed.Add(1)
				if !strings.Contains(err.Error(), "pull "+ref) {
					t.Errorf("got error %q, want it to name %s", err, ref)
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Errorf("%s: still %v", ref, err)
		})
	}
	<-underWay
	r.Stop()
	time.Sleep(300 * time.Millisecond)
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if failed.Load() == 0 {
		t.Error("got no pull that failed, want the registry to have been missed")
	}
	for i := 0; i < pulls; i += 7 {
		if err := images[i].Compare(n.Rootfs(t, "go", fmt.Sprintf("quay.io/a%d:1", i))); err != nil {
			t.Error(err)
		}
	}
	checkClean(t, n, "go")
}

// TestDescriptorsOfFiles counts the daemon's file descriptors after a hundred pulls (I4, P2): with stock there are two
// hundred more.
func TestDescriptorsOfFiles(t *testing.T) {
	daemon.RequireRoot(t)
	tokens := &registry.Tokens{Users: map[string]registry.User{"ann": {Password: "s3cret", Scopes: []string{"repository:*:pull"}}}}
	r := registry.Start(t, registry.Options{Tokens: tokens})
	img := image.Small("linux/amd64", 230)
	const pulls = 100
	for i := range pulls + 1 {
		img.Push(t, r, fmt.Sprintf("p/quay.io/a%d:1", i))
	}
	n := startNode(t, entry(t, r, "p", login("ann", "s3cret")), daemon.Options{CRI: true, Level: "info"})
	open := func() int {
		descriptors, _ := resources(t, n.PID())
		return descriptors
	}
	if err := pullCRI(t, n.Daemon, fmt.Sprintf("quay.io/a%d:1", pulls)); err != nil {
		t.Fatal(err)
	}
	before := open()
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	for i := range pulls {
		if err := transferIn(ctx, n.Daemon, fmt.Sprintf("quay.io/a%d:1", i)); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 35*time.Second, fmt.Sprintf("return to %d file descriptors", before+5), func() bool { return open() <= before+5 })
	if got := r.Log.Counts().Handshakes; got > 6 {
		t.Errorf("got %d handshakes for %d pulls one after another, want connections reused", got, pulls+1)
	}
	if got := len(r.Log.Match("", "/token")); got != pulls+1 {
		t.Errorf("got %d token requests, want one for each of %d repositories", got, pulls+1)
	}
}
