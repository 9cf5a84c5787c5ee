// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// C2: a helper that nothing can end, as on a network file system that is gone, does not keep others waiting for ever.
func TestSlots(t *testing.T) {
	const limit = 300 * time.Millisecond
	s := newSlots(2)
	one, err := s.take(t.Context(), "one", limit)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.take(t.Context(), "two", limit)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.take(t.Context(), "three", limit)
	for _, want := range []string{"waited 300ms while other helpers ran and none of them ended: ", `"one" for `, `"two" for `} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.take(ctx, "three", time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the pull was given up", err)
	}
	two()
	three, err := s.take(t.Context(), "three", limit)
	if err != nil || !strings.Contains(s.String(), `"three"`) || strings.Contains(s.String(), `"two"`) {
		t.Errorf("got %v with %s, want the slot of two", err, s)
	}
	one()
	three()
	if got := s.String(); got != "" {
		t.Errorf("got %s, want none held", got)
	}
}

// As long as helpers end, those behind them wait: a queue may be longer than the limit.
func TestSlotsMove(t *testing.T) {
	const limit = 2 * time.Second
	s := newSlots(1)
	done := make(chan error)
	for range 8 {
		go func() {
			release, err := s.take(t.Context(), "slow", limit)
			if err == nil {
				time.Sleep(limit / 4)
				release()
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
