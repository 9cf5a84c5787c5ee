// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"math"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"

	"github.com/berth-edge/berth/cmd/berth/mirror"
)

// copyProgress draws a bar for each image that is being sent or bundled, and one for all, on a terminal. Elsewhere it draws nothing.
type copyProgress struct {
	bars *mpb.Progress // nil where there is no terminal

	mu     sync.Mutex
	all    *meter
	images map[string]*meter
}

// meter is a bar, and how far it is.
type meter struct {
	bar         *mpb.Bar
	total, sent int64
	last        time.Time // when the bar was moved
	since       int64     // what was sent since then
}

// atLeast is how long a speed is measured: what comes within one read, or of several blobs at once, has none of its own.
const atLeast = 100 * time.Millisecond

func (m *meter) add(planned, sent int64) {
	m.total += planned
	m.sent += sent
	m.bar.SetTotal(max(m.total, m.sent), false)
	m.since += sent
	if took := time.Since(m.last); took >= atLeast {
		m.bar.EwmaIncrInt64(m.since, took)
		m.last, m.since = time.Now(), 0
	}
}

func newCopyProgress(w io.Writer, hidden bool) *copyProgress {
	p := &copyProgress{bars: newBars(w, hidden), images: map[string]*meter{}}
	if p.bars != nil {
		p.all = &meter{bar: bytesBar(p.bars, "in all", mpb.BarPriority(math.MaxInt)), last: time.Now()}
	}
	return p
}

// show is told of what is to be sent, and of what was.
func (p *copyProgress) show(step mirror.Step) {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all.add(step.Planned, step.Sent)
	image, ok := p.images[step.Ref]
	if !ok {
		image = &meter{}
		p.images[step.Ref] = image
	}
	if step.Sent > 0 && image.bar == nil { // one that waits has none yet
		image.bar, image.last = bytesBar(p.bars, step.Ref), time.Now()
	}
	if image.bar == nil {
		image.total += step.Planned
		return
	}
	image.add(step.Planned, step.Sent)
}

// done takes the bar of an image away.
func (p *copyProgress) done(ref string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if image, ok := p.images[ref]; ok && image.bar != nil {
		image.bar.Abort(true)
	}
}

// above returns what writes lines above the bars, w where there are none.
func (p *copyProgress) above(w io.Writer) io.Writer {
	if p.bars == nil {
		return w
	}
	return p.bars
}

// end takes the bars away.
func (p *copyProgress) end() {
	if p.bars != nil {
		p.all.bar.Abort(true)
		p.bars.Wait()
	}
}
