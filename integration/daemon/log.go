// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"io"
	"math"
	"os"
	"strings"
	"testing"
)

// Log is what a daemon writes. It may be read while the daemon runs: what was written before a call of its API returned is there.
type Log struct {
	file *os.File // that the daemon itself writes to, without a name
}

func newLog(tb testing.TB) *Log {
	file, err := os.CreateTemp("", "berth-log-")
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Remove(file.Name()); err != nil {
		tb.Fatal(err)
	}
	return &Log{file}
}

// String returns everything written so far.
func (l *Log) String() string {
	text, err := io.ReadAll(io.NewSectionReader(l.file, 0, math.MaxInt64))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Lines returns the lines that contain all of the given texts.
func (l *Log) Lines(texts ...string) []string {
	var found []string
next:
	for line := range strings.Lines(l.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		found = append(found, strings.TrimSuffix(line, "\n"))
	}
	return found
}

// Tail returns the last n lines.
func (l *Log) Tail(n int) string {
	lines := strings.SplitAfter(l.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
