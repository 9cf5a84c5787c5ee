// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	// negative is how long an error, or that there is no credential, is remembered; and how long the answer that replaced a
	// refused one is not replaced again.
	negative = 5 * time.Second
	// maxKept bounds what is remembered: clients choose the names of images.
	maxKept = 1024
)

// scope is what an answer may be used for, as kubelet's cacheKeyType has it.
type scope int

const (
	forImage scope = iota
	forRegistry
	forAll
)

// key is what an answer for image is kept by.
func (s scope) key(image string) string {
	switch s {
	case forImage:
		return "image " + image
	case forRegistry:
		return "registry " + hostOf(image)
	case forAll:
	}
	return "all"
}

// hostOf returns the host[:port] of an image.
func hostOf(image string) string {
	host, _, _ := strings.Cut(image, "/")
	return host
}

// answer is what a helper said: a credential for every image of its scope, until it is too old.
type answer struct {
	scope scope
	keep  time.Duration // zero: it is for those who wait for it, and not kept
	pick  func(image string) Credential
}

// shared asks a helper once for all pulls that may share its answer, and remembers the answer.
type shared struct {
	ask func(ctx context.Context, image string) (answer, error)

	mu      sync.Mutex
	kept    map[string]kept
	running map[string]*flight
	usual   scope // of the last answer; before the first, one is waited for per registry
}

type kept struct {
	answer
	err   error
	until time.Time
	anew  time.Time // when it was fetched in the place of one that was refused
}

// flight is one run of the helper, and those who wait for it.
type flight struct {
	image   string
	cancel  context.CancelFunc
	waiting int
	done    chan struct{}
	result  kept
}

func newShared(ask func(context.Context, string) (answer, error)) *shared {
	return &shared{ask: ask, kept: map[string]kept{}, running: map[string]*flight{}, usual: forRegistry}
}

var _ Keychain = (*shared)(nil)

// Credential implements [Keychain].
func (s *shared) Credential(ctx context.Context, image string, refused Credential) (Credential, error) {
	for {
		k, f := s.join(ctx, image, refused)
		if f == nil {
			return k.credential(image)
		}
		select {
		case <-f.done:
			if f.result.err != nil || f.result.scope.key(image) == f.result.scope.key(f.image) {
				return f.result.credential(image)
			} // it was good for another image alone
		case <-ctx.Done():
			s.leave(f)
			return Credential{}, ctx.Err()
		}
	}
}

func (k kept) credential(image string) (Credential, error) {
	if k.err != nil {
		return Credential{}, k.err
	}
	return k.pick(image), nil
}

// join returns what is remembered for image, or the run to wait for.
func (s *shared) join(ctx context.Context, image string, refused Credential) (kept, *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var anew time.Time
	for _, scope := range []scope{forImage, forRegistry, forAll} {
		k, ok := s.kept[scope.key(image)]
		if !ok || now.After(k.until) {
			continue
		}
		if k.err == nil && !refused.IsZero() && k.pick(image) == refused && now.Sub(k.anew) > negative {
			delete(s.kept, scope.key(image))
			anew = now
			continue
		}
		return k, nil
	}
	key := s.usual.key(image)
	f, ok := s.running[key]
	if !ok {
		f = &flight{image: image, done: make(chan struct{})}
		f.result.anew = anew
		// The first who asks may give up while others wait.
		flown, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f.cancel = cancel
		s.running[key] = f
		go s.fly(flown, key, f)
	}
	f.waiting++
	return kept{}, f
}

// leave ends a run that nobody waits for any more.
func (s *shared) leave(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiting--; f.waiting > 0 {
		return
	}
	f.cancel()
	for key, running := range s.running {
		if running == f {
			delete(s.running, key) // who comes now is not to be told that it was canceled
		}
	}
}

func (s *shared) fly(ctx context.Context, key string, f *flight) {
	defer f.cancel()
	f.result.answer, f.result.err = s.asked(ctx, f.image)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	if s.running[key] == f {
		delete(s.running, key)
	}
	now := time.Now()
	switch {
	case ctx.Err() != nil:
		return
	case f.result.err != nil:
		f.result.until = now.Add(negative)
	default:
		f.result.until = now.Add(f.result.keep)
		s.usual = f.result.scope
		key = s.usual.key(f.image)
	}
	s.remember(key, f.result, now)
}

// asked is ask in a goroutine of its own, in which a panic would end containerd.
func (s *shared) asked(ctx context.Context, image string) (_ answer, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("ask helper: panic: %v: %w", r, ErrUnavailable)
		}
	}()
	a, err := s.ask(ctx, image)
	if err != nil {
		err = fmt.Errorf("%w: %w", err, ErrUnavailable)
	}
	return a, err
}

func (s *shared) remember(key string, k kept, now time.Time) {
	for old := range s.kept {
		if now.After(s.kept[old].until) {
			delete(s.kept, old)
		}
	}
	if len(s.kept) >= maxKept {
		clear(s.kept) // one more run for each that is still asked for
	}
	if k.until.After(now) {
		s.kept[key] = k
	}
}
