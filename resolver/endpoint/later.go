// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Bounds of how long one request is held back: the least at a time, and the most in all, which is less than a minute.
const (
	minRetryWait = time.Second
	maxRetryWait = 50 * time.Second
)

// retryAfter is how long the next request is to be held back, since containerd tries again at once, five times in all: what
// Retry-After says, in seconds or as a date (RFC 9110, 10.2.3). Without one a 429 waits the least, and others do not.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	header := resp.Header.Get("Retry-After")
	if resp.StatusCode != http.StatusTooManyRequests && (resp.StatusCode != http.StatusServiceUnavailable || header == "") {
		return 0
	}
	wait := minRetryWait
	if seconds, err := time.ParseDuration(header + "s"); err == nil {
		wait = seconds
	} else if date, err := http.ParseTime(header); err == nil {
		wait = date.Sub(now)
	}
	return max(wait, minRetryWait)
}

// later is when a registry wants to be asked again for what it did not answer.
type later struct {
	first, until time.Time // when it first said so, and what it said last
	status       int       // of HTTP
}

// hold remembers how long a path is not to be asked for, if at all.
func (p *pull) hold(path string, status int, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if wait == 0 {
		delete(p.later, path)
		return
	}
	now := time.Now()
	l, again := p.later[path]
	if !again {
		l.first = now
	}
	l.until, l.status = now.Add(wait), status
	p.later[path] = l
}

// wait holds req back for as long as the registry asked for when the same was asked of it, unless that is too long. The last answer
// costs no wait: nobody can tell that it is the last, but that no request follows.
func (p *pull) wait(ctx context.Context, req *http.Request) error {
	l := p.laterFor(req)
	if l.isTooLong() {
		return nil
	}
	return sleep(ctx, time.Until(l.until))
}

// laterFor is when what req asks for is to be asked for again.
func (p *pull) laterFor(req *http.Request) later {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.later[req.URL.Path]
}

func (l later) isTooLong() bool { return l.until.Sub(l.first) > maxRetryWait }

// tooLong is the error of a request that is not sent, since the registry wants to be left alone for longer than anybody waits.
func (p *pull) tooLong(req *http.Request) error {
	l := p.laterFor(req)
	if !l.isTooLong() {
		return nil
	}
	cause := RateLimited
	if l.status == http.StatusServiceUnavailable {
		cause = Busy
	}
	return &Error{Cause: cause, Text: fmt.Sprintf("%s: %d %s: it asks for another %v, which is too long to wait", req.URL.Host,
		l.status, http.StatusText(l.status), max(time.Until(l.until), 0).Round(time.Second))}
}

// sleep waits, or until ctx ends, which is the error then. What is not positive is no wait.
func sleep(ctx context.Context, wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
