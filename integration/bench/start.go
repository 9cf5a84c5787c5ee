// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"testing"
	"time"
)

// idle is how long a daemon is left alone before its memory is read.
const idle = 3 * time.Second

// benchStart measures how long a daemon takes until it serves, and the memory that it then holds: all that is resident, and what
// is of its own making. The rest is pages of the binary, in the page cache.
func benchStart(tb testing.TB, t *table, rounds int) {
	r := newRegistry(tb, 0)
	for _, built := range []struct {
		how      string
		programs [sides]string
	}{{"as released", released(tb)}, {"same flags", sameFlags(tb)}} {
		all := startSides(tb, r, built.programs)
		var starts, memory, own samples
		for round := range 3 * rounds {
			for _, i := range abba(round) {
				all[i].Stop(tb)
				start := time.Now()
				if err := all[i].Run(tb); err != nil {
					tb.Fatalf("%s: %v", sideNames[i], err)
				}
				starts[i] = append(starts[i], float64(time.Since(start).Milliseconds()))
				time.Sleep(idle)
				memory[i] = append(memory[i], procMiB(tb, all[i].PID(), "status", "VmRSS"))
				own[i] = append(own[i], procMiB(tb, all[i].PID(), "status", "RssAnon"))
			}
		}
		for _, s := range all {
			s.Stop(tb)
		}
		t.row("start until the API answers, "+built.how, "ms", starts)
		t.row(fmt.Sprintf("  resident memory, %v after start", idle), "MiB", memory)
		t.row("  without the pages of the binary", "MiB", own)
	}
}
