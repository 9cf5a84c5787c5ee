// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/registry"
)

// TestDeadTarget pulls from a registry that accepts connections and says nothing, and from one that is well (P13): as many pulls
// as there are of the dead one's images, none of them holds up another's, and each fails by itself in the end.
func TestDeadTarget(t *testing.T) {
	daemon.RequireRoot(t)
	const pulls = 12
	dead := registry.Silent(t)
	r := registry.Start(t, registry.Options{})
	for i := range pulls {
		oneLayer(uint64(1300+i)).Push(t, r, fmt.Sprintf("p/quay.io/a%d:1", i))
	}
	n := startNode(t, entry(t, r, "p")+fmt.Sprintf("[[registries]]\ndomain = %q\n", dead)+rule("dead.io", dead), daemon.Options{CRI: true})
	failed := make(chan error, pulls)
	for i := range pulls {
		go func() { failed <- pullCRI(t, n.Daemon, fmt.Sprintf("dead.io/a%d:1", i)) }()
	}
	for i := range pulls {
		if err := pullCRI(t, n.Daemon, fmt.Sprintf("quay.io/a%d:1", i)); err != nil {
			t.Errorf("pull from the registry that is well: %v", err)
		}
	}
	if len(failed) > 0 {
		t.Errorf("%d pulls from the dead registry ended before those that it was not to hold up", len(failed))
	}
	for range pulls {
		if err := <-failed; err == nil || !strings.Contains(err.Error(), dead) || !strings.Contains(err.Error(), "timed out") {
			t.Errorf("pull from the dead registry: got %v, want that %s timed out", err, dead)
		}
	}
}
