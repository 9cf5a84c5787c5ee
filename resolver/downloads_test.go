// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/transfer/local"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// meeting counts how many requests are there at once. The first waits for a second one, as long as wait says.
type meeting struct {
	wait      time.Duration
	mu        sync.Mutex
	here, max int
	met       chan struct{}
}

func (m *meeting) attend() (leave func()) {
	m.mu.Lock()
	if m.here++; m.here == 2 && m.max < 2 {
		close(m.met)
	}
	m.max = max(m.max, m.here)
	m.mu.Unlock()
	select {
	case <-m.met:
	case <-time.After(m.wait):
	}
	return func() {
		m.mu.Lock()
		m.here--
		m.mu.Unlock()
	}
}

// The transfer service's limit of downloads holds for configured registries, unless another takes its place.
func TestDownloads(t *testing.T) {
	t.Parallel()
	limit := func(max int) *resolver.Downloads {
		var d resolver.Downloads
		d.Limit(max)
		return &d
	}
	for _, tt := range []struct {
		name      string
		service   int
		downloads *resolver.Downloads
		want      int
	}{
		{"no limit", 0, &resolver.Downloads{}, 2},
		{"the service's", 1, &resolver.Downloads{}, 1},
		{"one that takes its place", 0, limit(1), 1},
		{"a higher one", 1, limit(2), 2},
		{"none", 1, limit(0), 2},
		{"below none", 1, limit(-1), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// Two pulls of two images: two downloads of one would wait for each other.
			var config string
			layers := &meeting{wait: time.Minute, met: make(chan struct{})}
			if tt.want == 1 {
				layers.wait = 300 * time.Millisecond // nobody comes
			}
			for i := range 2 {
				image := registrytest.NewImage(fmt.Sprint("limit", i), 4<<10)
				whole := registrytest.Registry{Image: image}
				s := serve(t, at(image.LayerPath(), func(w http.ResponseWriter, r *http.Request) {
					defer layers.attend()()
					whole.ServeHTTP(w, r)
				}, whole))
				config += s.registry() + fmt.Sprintf("[[rules]]\nfrom = \"quay.io/org/%d\"\nto = [%q]\n", i, fmt.Sprintf("%s/m/%d", s.Host, i))
			}
			n := newNode(t, config)
			n.Downloads = tt.downloads
			n.Inner = local.NewTransferService(n.db.ContentStore(), n.images, local.TransferConfig{Leases: n.Leases, MaxConcurrentDownloads: tt.service})
			var pulls sync.WaitGroup
			for i := range 2 {
				pulls.Go(func() {
					if err := n.pull(t.Context(), fmt.Sprintf("quay.io/org/%d:1", i)); err != nil {
						t.Error(err)
					}
				})
			}
			pulls.Wait()
			if layers.max != tt.want {
				t.Errorf("got %d layers downloaded at once, want %d", layers.max, tt.want)
			}
		})
	}
}

// The limit is also that of the parts of one layer, where the service fetches layers in parts.
func TestDownloadsInParts(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("parts", 64<<10)
	for _, tt := range []struct {
		name      string
		limit     int // 0: the service's
		wantParts bool
	}{
		{"the service's", 0, false},
		{"one that takes its place", 4, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, registrytest.Registry{Image: image})
			n := newNode(t, s.registry()+from(s))
			if tt.limit > 0 {
				n.Downloads.Limit(tt.limit)
			}
			n.Inner = local.NewTransferService(n.db.ContentStore(), n.images, local.TransferConfig{Leases: n.Leases, MaxConcurrentDownloads: 1, ConcurrentLayerFetchBuffer: 16 << 10})
			if err := n.pull(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
			n.wantImage(t, ref, image)
			if got := len(s.Lines(image.LayerPath())); got > 1 != tt.wantParts {
				t.Errorf("got %d requests for the layer, want parts %t", got, tt.wantParts)
			}
		})
	}
}
