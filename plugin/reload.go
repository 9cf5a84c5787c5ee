// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/containerd/log"

	"github.com/berth-edge/berth/plugin/watch"
	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/strict"
)

const (
	// quiet is how long files that are written in place must be left alone before they are read: they may have half of their
	// rules.
	quiet = 200 * time.Millisecond
	// restless is how long quiet is waited for: files that change all the time are read then.
	restless = 10 * quiet
	// patience is how long a pull waits for a change that came before it.
	patience = quiet + quiet/2
	// readings is how often files are read at most to have them all as they were at one time: their directory may be switched
	// between two of them. If they change all the time, the next pull reads them again.
	readings = 5
	// lookEvery is how often files are looked at if nothing tells that they changed.
	lookEvery = 5 * time.Second
)

// change is what is known of the files since the state in force was made of them.
type change struct {
	looked   config.Inputs // as they were last read
	noticed  time.Time     // when they were seen to have changed since; zero if they have not
	refused  error         // why the last change is not in force; nil if there was none, or it is
	since    time.Time     // when refused was found
	refusals int           // changes that were refused since containerd started
}

// Watch brings changes into force as they happen, until ctx ends. Without it they come into force with the next pull.
func (r *Resolver) Watch(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			log.G(ctx).Errorf("watch the resolver's configuration: panic: %v; changes come into force with the next pull\n%s", p, debug.Stack())
		}
	}()
	for ctx.Err() == nil {
		paths := r.inputs().Paths()
		watching, stop := context.WithCancel(ctx)
		changes := watch.Paths(watching, paths...)
		wait := quiet // what changed before they were watched was not told of
		for watching.Err() == nil && slices.Equal(paths, r.inputs().Paths()) {
			select {
			case <-ctx.Done():
			case <-changes:
			case <-time.After(wait):
				wait = lookEvery
			}
			r.inputs().Look()
			r.refresh(ctx, math.MaxInt64)
		}
		stop()
	}
}

func (r *Resolver) inputs() config.Inputs {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.change.looked
}

// refresh brings a change of the files into force. One that is still being made is waited for, but no longer than limit
// after it was noticed.
func (r *Resolver) refresh(ctx context.Context, limit time.Duration) {
	for r.inputs().Changed() {
		waits := r.reload(ctx)
		if waits == 0 || waits >= limit {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(quiet / 20):
		}
	}
}

// reload reads changed files once they are settled. It returns how long that is waited for, 0 if they are.
func (r *Resolver) reload(ctx context.Context) (waits time.Duration) {
	r.loading.Lock()
	defer r.loading.Unlock()
	in := r.inputs()
	if !in.Changed() { // another did it
		return 0
	}
	waits = max(time.Since(r.notice()), 1)
	if in.Written() || waits < restless && !in.Settled(quiet) {
		return waits
	}
	r.load(ctx)
	return 0
}

// notice returns when the change was noticed that is there.
func (r *Resolver) notice() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.change.noticed.IsZero() {
		r.change.noticed = time.Now()
	}
	return r.change.noticed
}

// Load reads the configuration.
func (r *Resolver) Load(ctx context.Context) State {
	r.loading.Lock()
	defer r.loading.Unlock()
	r.load(ctx)
	return r.State()
}

// load reads the configuration, and lets it come into force or be refused. r.loading is held.
func (r *Resolver) load(ctx context.Context) {
	before := r.State()
	next := read(r.stanza, before)

	r.mu.Lock()
	defer r.mu.Unlock()
	refused := r.change.refused
	r.change.looked, r.change.noticed, r.change.refused = next.Inputs, time.Time{}, nil
	switch {
	case next.Err != nil && before.isGood():
		r.change.refused = next.Err
		if sameError(refused, next.Err) {
			return
		}
		r.change.since = next.Since
		r.change.refusals++
		log.G(ctx).WithFields(log.Fields{"problems": strings.Split(next.Err.Error(), "\n"), "generation": before.Generation}).
			Error("change of the resolver's configuration refused: what was before stays in force")
		return
	case before.Generation > 0 && sameError(before.Err, next.Err) && before.Equal(next.Config):
		if refused != nil {
			log.G(ctx).WithField("generation", before.Generation).Info("the resolver's configuration is again as it is in force")
		}
		r.state.Loaded = next.Loaded
		return
	}
	next.Generation = before.Generation + 1
	r.state = next
	next.announce(ctx)
	if r.criIsPast && !r.criIsAbsent && next.Configured() {
		log.G(ctx).Error(criIsRefused)
	}
}

// read makes a state of what the files have. Rules are not followed by none, after which pulls would go to public
// registries: a file that is gone may be one that is about to be replaced.
func read(stanza strict.Stanza, before State) State {
	s := State{Since: time.Now()}
	for range readings {
		if s.Loaded, s.Err = config.Reload(stanza, before.Loaded); !s.Loaded.Inputs.Changed() {
			break
		}
	}
	switch {
	case s.Err != nil:
	case before.isGood() && !s.Loaded.Configured():
		s.Err = errors.New("no registry and no rule is left; restart containerd to go without them")
	case before.Routes != nil:
		s.Routes, s.Err = before.Routes.Next(s.Config)
	default:
		s.Routes, s.Err = resolver.NewRoutes(s.Config)
	}
	return s
}

// isGood reports whether there are rules that can be used.
func (s State) isGood() bool { return s.Err == nil && s.Loaded.Configured() }

func sameError(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error())
}
