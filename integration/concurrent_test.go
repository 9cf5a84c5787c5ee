// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestConcurrentPulls pulls one image many times at once: two clients, then a hundred of one (P3, R25). Each blob is
// fetched once, and the token once.
func TestConcurrentPulls(t *testing.T) {
	tokens := &registry.Tokens{Users: map[string]registry.User{"ann": {Password: "s3cret", Scopes: []string{"repository:*:pull"}}}}
	r := registry.Start(t, registry.Options{Tokens: tokens, Delay: 10 * time.Millisecond})
	n := startNode(t, entry(t, r, "p", login("ann", "s3cret")), daemon.Options{CRI: true, Level: "info"})
	for i, tc := range []struct {
		pulls, stores, tokens int
		clients               []client
	}{
		{2, 1, 1, clients[:1]},
		{3, 3, 1, clients}, // three namespaces, of which each has its own content
		{100, 1, 1, clients[:1]},
		{100, 1, 1, clients[2:]},
	} {
		t.Run(fmt.Sprintf("%d of %d clients", tc.pulls, len(tc.clients)), func(t *testing.T) {
			repo := fmt.Sprintf("quay.io/a/b%d", i)
			img := image.New(image.Config{Layers: []image.Layer{
				image.NewLayer(image.Random("a", uint64(300+10*i), 300_000)),
				image.NewLayer(image.Random("b", uint64(301+10*i), 100_000)),
			}})
			img.Push(t, r, "p/"+repo+":1")
			r.Log.Reset()
			var all sync.WaitGroup
			for k := range tc.pulls {
				all.Go(func() {
					c := tc.clients[k%len(tc.clients)]
					if err := c.pull(t, n.Daemon, repo+":1"); err != nil {
						t.Errorf("%s: %v", c.name, err)
					}
				})
			}
			all.Wait()
			blobs := []string{img.ConfigDigest.String(), img.Layers[0].Digest.String(), img.Layers[1].Digest.String()}
			for _, blob := range blobs {
				if got := len(served(r, "*/blobs/"+blob)); got < 1 || got > tc.stores {
					t.Errorf("got blob %s %d times, want once in each of %d namespaces", blob, got, tc.stores)
				}
			}
			if got := len(r.Log.Match("", "/token")); got > tc.tokens {
				t.Errorf("got %d token requests, want %d:\n%s", got, tc.tokens, r.Log.Lines())
			}
			for _, c := range tc.clients {
				if err := img.Compare(n.Rootfs(t, c.namespace, repo+":1")); err != nil {
					t.Error(err)
				}
				ctx := namespaces.WithNamespace(t.Context(), c.namespace)
				left, err := n.Client().LeasesService().List(ctx)
				if err != nil || len(left) != 0 {
					t.Errorf("got leases %v %v, want none", left, err)
				}
				ingests, err := n.Client().ContentStore().ListStatuses(ctx)
				if err != nil || len(ingests) != 0 {
					t.Errorf("got ingests %v %v, want none", ingests, err)
				}
			}
		})
	}
}
