// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/vbauerster/mpb/v8"
)

// Whatever an image is called, a line of 80 columns has room for how far it is, how fast, and the time left.
func TestBarOfLongName(t *testing.T) {
	for name, want := range map[string]string{
		"nginx:1": "nginx:1 ",
		"us-docker.pkg.dev/palette-images/third-party/kubernetes-dashboard/metrics-scraper:v1.0.9": "…hboard/metrics-scraper:v1.0.9 ",
	} {
		var drawn bytes.Buffer
		bars := mpb.New(mpb.WithOutput(&drawn), mpb.WithWidth(80), mpb.WithAutoRefresh())
		bar := bytesBar(bars, name)
		bar.SetTotal(1_000_000_000, false)
		bar.SetCurrent(500_000_000)
		bar.Abort(false)
		bars.Wait()
		if got := drawn.String(); !strings.Contains(got, want+"476.8 MiB / 953.7 MiB [") || !strings.Contains(got, "] 0.0 b/s 0s") {
			t.Errorf("%s: got %q, want %q and all that is said of it", name, got, want)
		}
	}
}
