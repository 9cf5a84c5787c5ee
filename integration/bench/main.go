// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Command bench compares our containerd with stock containerd, both built from this module's graph, in one run.
//
// A third side, the control, is stock once more: what it differs from stock by is the noise of the machine, and only a
// ratio that lies outside of that says anything. Sides take turns in ABBA order and share one registry, whose request log
// proves that each asked it for what it should. All three see the same environment, so the same igzip or none.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/program"
)

func main() {
	rounds := flag.Int("rounds", 6, "how often each side is measured; an even number of 6 or more")
	only := flag.String("run", "", "only the benchmarks whose name matches: small, large, start, bundle, reload, copy, check, write, growth")
	plot := flag.String("plot", "", "file to draw the growth of loading to, as SVG")
	flag.Parse()
	if args := flag.Args(); len(args) > 3 && args[0] == readLayers {
		if err := readMain(args[1], args[2], args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -run:", err)
		os.Exit(2)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: containerd needs root; try again with sudo")
		os.Exit(1)
	}
	if *rounds < 6 || *rounds%2 != 0 {
		fmt.Fprintln(os.Stderr, "bench: -rounds wants an even number of 6 or more")
		os.Exit(2)
	}
	os.Exit(program.Run(func(tb testing.TB) {
		tb.Cleanup(binaries.Remove)
		binaries.Dir(tb, binaries.Containerd, binaries.Stock, binaries.Shim, binaries.Runc, binaries.Ctr, binaries.Berth)
		for _, name := range []string{"igzip", "unpigz"} {
			path, err := exec.LookPath(name)
			if err != nil {
				path = "not installed"
			}
			fmt.Printf("%s: %s\n", name, path)
		}
		fmt.Printf("%d rounds, medians; control is stock against stock\n\n", *rounds)
		t := newTable(os.Stdout)
		for _, b := range []struct {
			name string
			run  func(testing.TB, *table, int)
		}{{"small", benchSmallImages}, {"large", benchLargeImage}, {"start", benchStart}, {"bundle", benchBundles}, {"reload", benchReload}, {"copy", benchCopy}, {"check", benchCheck}, {"write", benchWrite}, {"growth", func(tb testing.TB, t *table, rounds int) { benchGrowth(tb, t, rounds, *plot) }}} {
			if match.MatchString(b.name) {
				b.run(tb, t, *rounds)
			}
		}
	}))
}
