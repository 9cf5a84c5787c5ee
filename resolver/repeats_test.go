// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// A week of tries every five minutes is a line an hour, each with the count of those before it.
func TestRepeatsOfAWeek(t *testing.T) {
	var r repeats
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := failure{"quay.io/a:1", "r.example.com/a:1", notFound}
	lines, tries := 0, 0
	for now := start; now.Before(start.Add(7 * 24 * time.Hour)); now = now.Add(5 * time.Minute) {
		tries++
		before, ok := r.next(f, now)
		if !ok {
			continue
		}
		lines++
		want := repeat{}
		if lines > 1 {
			want = repeat{first: start, said: now.Add(-time.Hour), count: 11}
		}
		if before != want {
			t.Fatalf("at %s: got %+v, want %+v", now, before, want)
		}
	}
	if tries != 2016 || lines != 168 {
		t.Errorf("got %d lines for %d tries, want 168 for 2016", lines, tries)
	}
}

func TestRepeatsAreOfOneFailure(t *testing.T) {
	var r repeats
	now := time.Now()
	same := failure{"quay.io/a:1", "r.example.com/a:1", notFound}
	for _, tt := range []struct {
		name  string
		f     failure
		after time.Duration
		want  bool
		count int
	}{
		{"the first", same, 0, true, 0},
		{"the same", same, time.Minute, false, 0},
		{"another cause", failure{same.ref, same.pulledAs, serverError}, time.Minute, true, 0},
		{"another target", failure{same.ref, "s.example.com/a:1", notFound}, time.Minute, true, 0},
		{"another image", failure{"quay.io/b:1", "r.example.com/b:1", notFound}, time.Minute, true, 0},
		{"the same again", same, 59 * time.Minute, false, 0},
		{"the same after the period", same, time.Hour, true, 2},
		{"the same within the next period", same, 119 * time.Minute, false, 0},
		{"alone in its period", failure{"quay.io/b:1", "r.example.com/b:1", notFound}, 5 * time.Hour, true, 0},
	} {
		if before, ok := r.next(tt.f, now.Add(tt.after)); ok != tt.want || before.count != tt.count {
			t.Errorf("%s: got a line %t that counts %d, want %t and %d", tt.name, ok, before.count, tt.want, tt.count)
		}
	}
	if ended := r.forget(same.ref, same.pulledAs); ended.count != 1 || !ended.first.Equal(now) {
		t.Errorf("got %+v counted when it worked, want one failure since %s", ended, now)
	}
	if _, ok := r.next(same, now.Add(119*time.Minute)); !ok {
		t.Error("got no line of what failed again after it had worked")
	}
}

// What is remembered is bounded, and nothing goes unsaid for that.
func TestRepeatsAreBounded(t *testing.T) {
	var r repeats
	now := time.Now()
	for i := range 3 * maxRepeats {
		if _, ok := r.next(failure{ref: fmt.Sprint(i)}, now); !ok {
			t.Fatalf("got no line of failure %d", i)
		}
	}
	if _, ok := r.next(failure{ref: fmt.Sprint(2 * maxRepeats)}, now); !ok || len(r.seen) != maxRepeats {
		t.Errorf("got a line %t and %d remembered, want one of what is not remembered, and %d", ok, len(r.seen), maxRepeats)
	}
	if _, ok := r.next(failure{ref: "later"}, now.Add(repeatPeriod)); !ok || len(r.seen) != 1 {
		t.Errorf("got a line %t and %d remembered, want what is old forgotten", ok, len(r.seen))
	}
}

// What an operator wants no line of stays out of the log, where containerd's client is kept from repeating itself, too.
func TestUnrepeatedLevel(t *testing.T) {
	for level, want := range map[logrus.Level]string{logrus.ErrorLevel: "", logrus.InfoLevel: "warning", logrus.DebugLevel: "info warning"} {
		var text bytes.Buffer
		logger := logrus.New()
		logger.SetLevel(level)
		logger.SetOutput(&text)
		ctx := unrepeated(log.WithLogger(t.Context(), logrus.NewEntry(logger)))
		log.G(ctx).Info("a request failed")
		log.G(ctx).Warn("a file is not read")
		var got []string
		for line := range strings.Lines(text.String()) {
			_, after, _ := strings.Cut(line, "level=")
			said, _, _ := strings.Cut(after, " ")
			got = append(got, said)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("at level %s: got %q, want %q", level, got, want)
		}
	}
}
