// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// announce writes the one line of a bundle that was worked on, and a line for whatever is wrong with it. What was said the last
// time, and still holds, is only there for who debugs: containerd may run for months with a broken bundle.
func (e *entry) announce(ctx context.Context) {
	if ctx.Err() != nil || e.isCopied() {
		return // containerd ends, or the bundle comes later: that is no fault of it
	}
	d := time.Since(e.start)
	s := e.status()
	seconds.Observe(d.Seconds())
	count := map[State]int{}
	for _, i := range s.Images {
		count[i.State]++
	}
	says := fmt.Sprint(s.Err, len(s.Images))
	for _, i := range s.Images {
		if isFull(i.Err) { // how much is free, and where it ran out, differs each time
			was, is := problemOf(i.Names[0], s.Path, oneLine{i.Err}), problemOf(i.Names[0], s.Path, syscall.ENOSPC)
			says = strings.Replace(says, was.Error(), is.Error(), 1)
		}
	}
	e.news = says != e.said || count[Loaded]+count[Repaired] > 0
	e.said = says
	level := func(l logrus.Level) logrus.Level {
		if e.news {
			return l
		}
		return logrus.DebugLevel
	}
	line := log.G(ctx).WithFields(log.Fields{
		"bundle": s.Path, "format": s.Format, "images": len(s.Images),
		"loaded": count[Loaded], "repaired": count[Repaired], "present": count[Present], "failed": count[Failed], "seconds": rounded(d),
	})
	if s.Err == nil {
		line.Log(level(logrus.InfoLevel), "bundle is loaded")
		return
	}
	for _, problem := range strings.Split(s.Err.Error(), "\n") {
		l := level(logrus.ErrorLevel)
		if e.news && e.catalog.said.Add(1) > maxSaid {
			l = logrus.DebugLevel
		}
		line.WithField("problem", problem).Log(l, "bundle is not loaded as a whole")
	}
}

// maxSaid is how many problems of one round are said one by one: a folder may hold ten thousand files that are no bundles.
const maxSaid = 50

// note writes a line for each name that an image does not get, once. It is known when all bundles are listed.
func note(ctx context.Context, entries []*entry) {
	for _, e := range entries {
		s := e.status()
		var notes []string
		for _, i := range s.Images {
			notes = append(notes, i.Notes...)
		}
		if slices.Equal(notes, e.noted) {
			continue
		}
		e.noted = notes
		for _, text := range notes {
			log.G(ctx).WithField("bundle", s.Path).Warn("name is not given to an image: " + text)
		}
	}
}

// summarize writes the one line of a round of loading, in which so many problems were said.
func summarize(ctx context.Context, entries []*entry, said int, first bool, d time.Duration) {
	images, failed, level := 0, 0, logrus.DebugLevel
	if first {
		level = logrus.InfoLevel
	}
	for _, e := range entries {
		s := e.status()
		images += len(s.Images)
		if s.State == Failed {
			failed++
		}
		if e.news {
			level = logrus.InfoLevel
		}
		e.news = false
	}
	if more := said - maxSaid; more > 0 {
		log.G(ctx).WithField("problems", more).Error("more bundles are not loaded as a whole: berth status has all of them")
	}
	log.G(ctx).WithFields(log.Fields{"bundles": len(entries), "failed": failed, "images": images, "seconds": rounded(d)}).
		Log(level, "bundles are loaded")
}

func rounded(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
