// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/registry"
)

var soakPulls = flag.Int("soak.pulls", 300, "pulls of the test that looks for what grows")

// TestSoak pulls and removes images for a long time, fifty at once, with pulls among them that fail (P1, P4): none fails that
// should not, and nothing grows. The memory of a short run says nothing; that of 2,000 pulls and more does.
func TestSoak(t *testing.T) {
	daemon.RequireRoot(t)
	const repos, atOnce = 100, 50
	tokens := &registry.Tokens{Users: map[string]registry.User{"ann": {Password: "s3cret", Scopes: []string{"repository:*:pull"}}}}
	r := registry.Start(t, registry.Options{Tokens: tokens})
	for i := range repos {
		oneLayer(uint64(2000+i)).Push(t, r, fmt.Sprintf("p/quay.io/a%d:1", i))
	}
	n := startNode(t, entry(t, r, "p", login("ann", "s3cret")), daemon.Options{CRI: true, Level: "error"})
	images, _ := n.CRI(t)
	pull := func(ref string) error { // by one client, as kubelet is
		_, err := images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}})
		return err
	}
	one := func(i int) {
		ref := fmt.Sprintf("quay.io/a%d:1", i%repos)
		if i%10 == 0 && pull(fmt.Sprintf("quay.io/absent%d:1", i)) == nil {
			t.Error("got an image that there is not")
		}
		if err := pull(ref); err != nil {
			t.Errorf("pull %d: %v", i, err)
		}
		if _, err := images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
			t.Errorf("remove %s: %v", ref, err)
		}
	}
	run := func(from, to int) {
		var work sync.WaitGroup
		for worker := range atOnce {
			work.Go(func() {
				for i := from + worker; i < to; i += atOnce {
					one(i)
				}
			})
		}
		work.Wait()
	}
	first := *soakPulls / 5
	run(0, first)
	before := memory(t, n.PID(), "VmRSS")
	descriptors, _ := resources(t, n.PID())
	running := goroutines(t, n.Daemon)
	run(first, *soakPulls)
	within(t, time.Minute, fmt.Sprintf("as many descriptors and goroutines as after the first pulls, %d and %d", descriptors, running), func() bool {
		d, _ := resources(t, n.PID())
		return d <= descriptors+5 && goroutines(t, n.Daemon) <= running+10
	})
	pulls := *soakPulls - first
	grown := memory(t, n.PID(), "VmRSS") - before
	t.Logf("%d pulls: memory grew by %.1f MiB", pulls, float64(grown)/(1<<20))
	if pulls > 1500 && grown/pulls > 1<<20/1000 {
		t.Errorf("got %d bytes more for each pull, want at most a MiB in a thousand", grown/pulls)
	}
	checkClean(t, n, "k8s.io")
}
