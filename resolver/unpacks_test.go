// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"testing"
)

// So many layers of one pull are unpacked at once, whatever another pull does; a pull without a limit has none.
func TestLimitUnpacks(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 3} {
		ctx, other := limitUnpacks(t.Context(), n), limitUnpacks(t.Context(), n)
		var release func()
		for i := range max(n, 20*(1-min(n, 1))) {
			var err error
			if release, err = AcquireUnpack(ctx); err != nil {
				t.Fatalf("limit %d: got %v of layer %d", n, err, i)
			}
		}
		if free, err := AcquireUnpack(other); err != nil {
			t.Errorf("limit %d: got %v of another pull, want it not to wait", n, err)
		} else {
			free()
		}
		if n == 0 {
			continue
		}
		canceled, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := AcquireUnpack(canceled); !errors.Is(err, context.Canceled) {
			t.Errorf("limit %d: got %v of one layer more, want it to wait until the pull is given up", n, err)
		}
		release()
		if _, err := AcquireUnpack(ctx); err != nil {
			t.Errorf("limit %d: got %v after one was released", n, err)
		}
	}
}
