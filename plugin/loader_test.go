// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/plugin"
)

// TestHoldReady holds readiness back until bundles are loaded, and for a minute at most (REL-02): systemd would end
// containerd after 90 s. An error, or a release too many, would end it at once.
func TestHoldReady(t *testing.T) {
	for _, tc := range []struct {
		name  string
		loads time.Duration
		want  time.Duration
	}{
		{"at once", 0, 0},
		{"after the load", 5 * time.Second, 5 * time.Second},
		{"after a minute", time.Hour, time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var released atomic.Int64
				ic := plugin.NewContext(t.Context(), plugin.NewPluginSet(), nil)
				start := time.Now()
				var at time.Duration
				ic.RegisterReadiness = func() func() {
					return func() {
						at = time.Since(start)
						released.Add(1)
					}
				}
				loaded := holdReady(ic, maxHold)
				time.Sleep(tc.loads)
				loaded()
				synctest.Wait()
				if n := released.Load(); n != 1 || at != tc.want {
					t.Errorf("got %d releases, the last after %s, want one after %s", n, at, tc.want)
				}
			})
		})
	}
}
