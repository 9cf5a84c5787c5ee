// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/berth-edge/berth/resolver/credential"
)

const (
	// refusedFor is how long a credential that was refused is not sent again: accounts are locked after a few attempts, and
	// every pod of a node tries again by itself.
	refusedFor = 5 * time.Second
	// maxTrials bounds what is remembered.
	maxTrials = 1024
	// trustedFor is how long a credential that was taken is sent by all at once. It may have been changed on the server since, and
	// one pull is to find that out.
	trustedFor = 5 * time.Second
	// fullTrust is how many repositories may refuse a credential that others took before it is taken to be wrong itself.
	fullTrust = 3
)

// verdict is what an attempt said of a credential.
type verdict int

const (
	noAnswer   verdict = iota // the registry could not be asked
	noVerdict                 // it said something else
	taken                     // it is right
	wrong                     // it was refused
	notForThis                // it is right, and not enough for the repository
)

// trials remember which credentials a registry took and which it refused. One that it has not taken lately is sent by one
// request at a time, so that a wrong one is sent once however many pulls there are, and then not again for refusedFor.
// What is remembered of a credential is a hash.
type trials struct {
	host string
	seed maphash.Seed

	mu      sync.Mutex
	trust   map[uint64]trust
	refused map[place]time.Time
	running map[uint64]*trial
}

// trust is how many repositories may still refuse a credential before it is taken to be wrong, and when one last took it.
type trust struct {
	left  int
	taken time.Time
}

// trial is the one request that has a credential which the registry has not taken lately.
type trial struct {
	done chan struct{}
	came verdict // once it is done
}

// sent is a credential and the token server that it is sent to, "" for the registry itself. What one refuses another may
// take.
type sent struct {
	credential.Credential
	realm string
}

// place is where something sent was refused: for an image, or, if that is "", for all.
type place struct {
	sent  uint64
	image string
}

func newTrials(host string) *trials {
	return &trials{host: host, seed: maphash.MakeSeed(), trust: map[uint64]trust{}, refused: map[place]time.Time{}, running: map[uint64]*trial{}}
}

// refusedError says that a credential is not sent, since it was refused a moment ago.
type refusedError struct {
	host string
	ago  time.Duration
}

func (e *refusedError) Error() string {
	ago := ""
	if e.ago >= time.Second { // else it may well be this very pull that it was refused
		ago = fmt.Sprintf(" %s ago", e.ago.Round(time.Second))
	}
	return fmt.Sprintf("%s: unauthorized: the credential was refused%s; it is sent again in %s, or when it changes: %v",
		e.host, ago, (refusedFor - e.ago).Round(time.Second), docker.ErrInvalidAuthorization)
}

func (*refusedError) Unwrap() error { return docker.ErrInvalidAuthorization }

// check returns an error if s was refused a moment ago.
func (t *trials) check(s sent, image string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.checkLocked(maphash.Comparable(t.seed, s), image)
}

func (t *trials) checkLocked(hash uint64, image string) error {
	for _, p := range []place{{hash, ""}, {hash, image}} {
		if at, ok := t.refused[p]; ok && time.Since(at) < refusedFor {
			return &refusedError{t.host, time.Since(at)}
		}
	}
	return nil
}

// begin waits until s may be sent. End must be called with what came of it. A trial that takes long, or has no answer, is the
// last that is waited for: a registry that hangs would be asked by one pull after another.
func (t *trials) begin(ctx context.Context, s sent, image string) (end func(verdict), err error) {
	hash := maphash.Comparable(t.seed, s)
	patience := time.NewTimer(t.patience(hash))
	defer patience.Stop()
	for waited := false; ; {
		own, other, err := t.join(hash, image)
		if err != nil {
			return nil, err
		}
		if other == nil || waited {
			return func(v verdict) {
				if errors.Is(ctx.Err(), context.Canceled) && v == noAnswer {
					v = noVerdict // the pull was given up, which says nothing of the registry
				}
				t.end(hash, image, v, own)
			}, nil
		}
		select {
		case <-other.done:
			waited = other.came == noAnswer
		case <-patience.C:
			waited = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// patience is how long another's trial is waited for: not long for a credential that is likely right, since it may be the
// registry that is gone.
func (t *trials) patience(hash uint64) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.trust[hash].left == fullTrust {
		return time.Second
	}
	return refusedFor
}

// join returns the trial of the caller's own, another's that is to be waited for, or neither if there is no need of one.
func (t *trials) join(hash uint64, image string) (own, other *trial, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.checkLocked(hash, image); err != nil {
		return nil, nil, err
	}
	if known := t.trust[hash]; known.left == fullTrust && time.Since(known.taken) < trustedFor {
		return nil, nil, nil
	}
	if other, busy := t.running[hash]; busy {
		return nil, other, nil
	}
	own = &trial{done: make(chan struct{})}
	t.running[hash] = own
	return own, nil, nil
}

func (t *trials) end(hash uint64, image string, v verdict, own *trial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own != nil {
		delete(t.running, hash)
		own.came = v
		close(own.done)
	}
	if len(t.trust) >= maxTrials {
		clear(t.trust)
	}
	for p, at := range t.refused {
		if time.Since(at) >= refusedFor {
			delete(t.refused, p)
		}
	}
	if len(t.refused) >= maxTrials {
		clear(t.refused)
	}
	switch v {
	case taken:
		t.trust[hash] = trust{fullTrust, time.Now()}
		delete(t.refused, place{hash, ""})
		delete(t.refused, place{hash, image})
	case wrong:
		known := t.trust[hash]
		if known.left == 0 {
			image = "" // no repository took it
		}
		known.left = max(known.left-1, 0)
		t.trust[hash] = known
		t.refused[place{hash, image}] = time.Now()
	case notForThis:
		t.refused[place{hash, image}] = time.Now()
	case noAnswer, noVerdict:
	}
}

// note remembers that s was refused, for a token that may be one for the registry itself.
func (t *trials) note(s sent, image string) {
	t.end(maphash.Comparable(t.seed, s), image, notForThis, nil)
}
