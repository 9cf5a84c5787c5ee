// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/registry"
)

// TestDeadTarget pulls from a registry that is dead and from one that is well (P13, R2). Pulls from the dead one, of which there are
// always as many under way, end when their time is over, which is dial_timeout where nobody accepts, and are not tried
// again; and they hold up no other: beside them a pull takes about as long as alone.
func TestDeadTarget(t *testing.T) {
	daemon.RequireRoot(t)
	const (
		pulls  = 12
		limit  = 3 * time.Second
		slack  = 2500 * time.Millisecond // less than another try takes
		slower = 5                       // times: a pull that waits for a dead one takes ten times as long and more
	)
	for i, dead := range []struct {
		name, host, setting, says string
	}{
		{"accepts no connection", registry.BlackHole(t), "dial_timeout", "connection timed out"},
		{"says nothing", registry.Silent(t), "stall_timeout", "stalled: no byte for 3s"},
	} {
		t.Run(dead.name, func(t *testing.T) {
			r := registry.Start(t, registry.Options{})
			for k := range 4*pulls + 1 {
				oneLayer(uint64(13_000+100*i+k)).Push(t, r, fmt.Sprintf("p/quay.io/a%d:1", k))
			}
			n := startNode(t, fmt.Sprintf("%s = %q\n", dead.setting, limit)+entry(t, r, "p")+
				fmt.Sprintf("[[registries]]\ndomain = %q\n", dead.host)+rule("dead.io", dead.host), daemon.Options{CRI: true})
			median := func(from, to int) time.Duration {
				t.Helper()
				var took []time.Duration
				for k := from; k < to; k++ {
					start := time.Now()
					if err := pullCRI(t, n.Daemon, fmt.Sprintf("quay.io/a%d:1", k)); err != nil {
						t.Errorf("pull from the registry that is well: %v", err)
					}
					took = append(took, time.Since(start))
				}
				slices.Sort(took)
				return took[len(took)/2]
			}
			median(0, 1) // what a daemon does but once
			alone := median(1, pulls+1)

			ended := make(chan struct{})
			var failing sync.WaitGroup
			for k := range pulls {
				failing.Go(func() {
					for {
						start := time.Now()
						err := pullCRI(t, n.Daemon, fmt.Sprintf("dead.io/a%d:1", k))
						took := time.Since(start)
						if err == nil || !strings.Contains(err.Error(), dead.host+": "+dead.says) {
							t.Errorf("pull from the dead registry: got %v, want %q of %s", err, dead.says, dead.host)
						}
						if took < limit || took > limit+slack {
							t.Errorf("pull from the dead registry: got an error after %s, want it after %s or a little more", took, limit)
						}
						select {
						case <-ended:
							return
						default:
						}
					}
				})
			}
			time.Sleep(limit / 10) // so that they wait
			beside := median(pulls+1, 2*pulls+1)
			for again := 2; beside > slower*alone && again < 4; again++ { // something else may have been going on
				beside = median(again*pulls+1, (again+1)*pulls+1)
			}
			close(ended)
			failing.Wait()
			t.Logf("a pull takes %s alone, %s beside those that fail", alone, beside)
			if beside > slower*alone {
				t.Errorf("got pulls that take %s beside those from a dead registry, and %s alone", beside, alone)
			}
		})
	}
}
