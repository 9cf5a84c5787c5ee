// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestSlowLoris has a registry that sends a layer by one byte a second, which is not stalled (R9): CRI gives the pull up when
// its progress timeout is over, and a pull of another image meanwhile is not held up by it. The beginning of the layer comes
// at once: of a download whose first mebibyte is not there, which is how containerd writes, CRI knows nothing.
func TestSlowLoris(t *testing.T) {
	daemon.RequireRoot(t)
	const slow, other, timeout = "quay.io/slow:1", "quay.io/other:1", 2 * time.Second
	img := layered(230)
	layer := img.Layers[2]
	left := make(chan struct{}, 8)
	reached := make(chan struct{}, 8)
	r := registry.Start(t, registry.Options{Users: ann, Middleware: registry.On("GET", "/v2/p/quay.io/slow/blobs/"+layer.Digest.String(), -1,
		func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.Header().Set("Content-Length", fmt.Sprint(len(layer.Blob)))
			_, _ = w.Write(layer.Blob[:1_500_000])
			reached <- struct{}{}
			for _, b := range layer.Blob[1_500_000:] {
				_, _ = w.Write([]byte{b})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
					left <- struct{}{}
					return
				}
			}
		})})
	img.Push(t, r, "p/"+slow)
	image.Small("linux/amd64", 231).Push(t, r, "p/"+other)
	n := startNode(t, entry(t, r, "p", login("ann", "s3cret")), daemon.Options{
		CRI: true, Config: criSetting(fmt.Sprintf("image_pull_progress_timeout = %q", timeout)),
	})
	start := time.Now()
	pull := make(chan error, 1)
	go func() { pull <- pullCRI(t, n.Daemon, slow) }()
	<-reached
	meanwhile := time.Now()
	if err := pullCRI(t, n.Daemon, other); err != nil {
		t.Errorf("the other image: %v", err)
	}
	if took := time.Since(meanwhile); took > timeout {
		t.Errorf("the other image took %s, want it not to wait for the slow one", took)
	}
	select {
	case err := <-pull:
		t.Errorf("the slow image: got %v while the other was pulled, want it under way", err)
	default:
	}
	wantError(t, <-pull, slow, "canceled")
	if took := time.Since(start); took < timeout || took > 5*timeout {
		t.Errorf("given up after %s, want %s or a little more", took, timeout)
	}
	select {
	case <-left:
	case <-time.After(5 * time.Second):
		t.Error("the connection of the slow image is still open")
	}
	checkClean(t, n, "k8s.io")
}
