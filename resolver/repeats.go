// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

const (
	// repeatPeriod is how long a failure that was logged is not logged again, but counted: kubelet tries for ever, every five
	// minutes at the most, with each image of each pod.
	repeatPeriod = time.Hour
	// maxRepeats is how many failures are remembered. Those above it are logged each time.
	maxRepeats = 4096
)

// failure is one that is the same again: texts differ by ports and ids of requests, while an outcome does not.
type failure struct {
	ref, pulledAs string
	outcome       outcome
}

// putLast is of a target that was not tried first, since it could not be reached a moment ago.
const putLast outcome = "put_last"

// repeats sums up what fails again and again. The zero value is ready to use.
type repeats struct {
	mu   sync.Mutex
	seen map[failure]*repeat
}

// repeat is a failure that was logged.
type repeat struct {
	first time.Time
	said  time.Time // when it was logged last
	count int       // how often it was not, since
}

// fields are those of a log line that stands for a failure that was counted.
func (r repeat) fields() log.Fields {
	return log.Fields{"repeated": r.count, "since": r.first.UTC().Format(time.RFC3339)}
}

// log writes a line about a failure as write does, unless it was written within the period. The first line after that says how
// often it was not written, and since when it fails.
func (r *repeats) log(ctx context.Context, f failure, fields log.Fields, write func(*log.Entry)) {
	before, ok := r.next(f, time.Now())
	if !ok {
		return
	}
	line := log.G(ctx).WithFields(fields)
	if before.count > 0 {
		line = line.WithFields(before.fields())
	}
	write(line)
}

// next counts a failure. It reports whether it is to be logged, with what was counted until now.
func (r *repeats) next(f failure, now time.Time) (before repeat, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, known := r.seen[f]
	if known && now.Sub(seen.said) < repeatPeriod {
		seen.count++
		return repeat{}, false
	}
	if known {
		before = *seen
	}
	if !known && len(r.seen) >= maxRepeats {
		maps.DeleteFunc(r.seen, func(_ failure, old *repeat) bool { return now.Sub(old.said) >= repeatPeriod })
		if len(r.seen) >= maxRepeats {
			return before, true
		}
	}
	if r.seen == nil {
		r.seen = map[failure]*repeat{}
	}
	next := &repeat{first: now, said: now}
	if before.count > 0 {
		next.first = before.first
	}
	r.seen[f] = next
	return before, true
}

// worked forgets what failed of a target before it worked, so that it is logged should it fail again, and logs how often it was not.
func (r *repeats) worked(ctx context.Context, ref, pulledAs string) {
	if ended := r.forget(ref, pulledAs); ended.count > 0 {
		log.G(ctx).WithFields(log.Fields{"ref": ref, "pulled-as": pulledAs}).WithFields(ended.fields()).
			Info("target of a pull works again")
	}
}

// forget returns what was counted of a target, whatever the outcomes were.
func (r *repeats) forget(ref, pulledAs string) (ended repeat) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.seen, func(f failure, seen *repeat) bool {
		if f.ref != ref || f.pulledAs != pulledAs {
			return false
		}
		ended.count += seen.count
		if ended.first.IsZero() || seen.first.Before(ended.first) {
			ended.first = seen.first
		}
		return true
	})
	return ended
}

// unrepeated returns a context in which containerd's client does not say at info level, as it does each time, that a request to a
// configured registry failed: why a pull failed is in its error, and that of a target before the last is summed up. Where debugging is
// on, all is said.
func unrepeated(ctx context.Context) context.Context {
	line := log.G(ctx).Dup()
	all := line.Logger
	if all.IsLevelEnabled(log.DebugLevel) {
		return ctx
	}
	line.Logger = &logrus.Logger{Out: all.Out, Hooks: all.Hooks, Formatter: all.Formatter, ExitFunc: all.ExitFunc, Level: min(all.GetLevel(), log.WarnLevel)}
	return log.WithLogger(ctx, line)
}
