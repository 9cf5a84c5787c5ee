// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestContainers runs a pod, whose pause image CRI pulls for itself, a container in it and one of ctr's, all from
// images that only the rewritten registry has.
func TestContainers(t *testing.T) {
	daemon.RequireRoot(t)
	const pause, hello = "registry.k8s.io/pause:3.10", "docker.io/demo/hello:1"
	r := registry.Start(t, registry.Options{Users: ann})
	image.Pause(t).Push(t, r, "edge/"+pause)
	image.Hello(t, "from", "afar").Push(t, r, "edge/"+hello)
	n := startNode(t, entry(t, r, "edge", login("ann", "s3cret")), daemon.Options{CRI: true, Pause: pause})

	pod, err := n.RunPod(t, "pod")
	if err != nil {
		t.Fatalf("run pod: %v\n%s", err, r.Log.Lines())
	}
	if got := len(r.Log.Match("HEAD", "/v2/edge/registry.k8s.io/pause/manifests/3.10")); got == 0 {
		t.Errorf("got no request of the pause image, want it pulled by rewriting:\n%s", r.Log.Lines())
	}
	if err := pullCRI(t, n.Daemon, "demo/hello:1"); err != nil {
		t.Fatal(err)
	}
	if got, want := pod.Run(t, "hello", hello), "hello from afar\n"; got != want {
		t.Errorf("got log %q of CRI's container, want %q", got, want)
	}
	if err := pullCtr(t, n.Daemon, hello); err != nil {
		t.Fatal(err)
	}
	if got, want := n.CtrRun(t, "default", hello, "c1"), "hello from afar\n"; got != want {
		t.Errorf("got %q of ctr's container, want %q", got, want)
	}
	for _, req := range r.Log.Requests() {
		if !strings.HasPrefix(req.Path, "/v2/edge/") {
			t.Errorf("got request %s, want only ones below /v2/edge/", req)
		}
	}
	pod.Remove(t)
}
