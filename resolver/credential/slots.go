// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// slots bound how many helpers run at once, and know which.
type slots struct {
	free chan struct{}

	mu    sync.Mutex
	held  []*holder // the oldest first
	freed time.Time // when one was last given back
}

// holder is a helper that runs.
type holder struct {
	name  string
	since time.Time
}

func newSlots(n int) *slots { return &slots{free: make(chan struct{}, n)} }

// take waits for a slot, until ctx ends or, in as long as limit, none is given back: a program that the kernel cannot end
// keeps its slot. Release gives it back.
func (s *slots) take(ctx context.Context, name string, limit time.Duration) (release func(), err error) {
	for wait := limit; wait > 0; {
		timer := time.NewTimer(wait)
		select {
		case s.free <- struct{}{}:
			timer.Stop()
			return s.hold(name), nil
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
			wait = s.patience(limit)
		}
	}
	return nil, fmt.Errorf("waited %s while other helpers ran and none of them ended: %s", limit, s)
}

func (s *slots) hold(name string) (release func()) {
	h := &holder{name, time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, h)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held = slices.DeleteFunc(s.held, func(other *holder) bool { return other == h })
		s.freed = time.Now()
		<-s.free
	}
}

// patience is how much of limit is left since a slot was last given back.
func (s *slots) patience(limit time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return limit - time.Since(s.freed)
}

// String names what holds the slots.
func (s *slots) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held []string
	for _, h := range s.held {
		held = append(held, fmt.Sprintf("%q for %s", h.name, time.Since(h.since).Round(time.Second)))
	}
	return strings.Join(held, ", ")
}
