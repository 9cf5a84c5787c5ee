// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/log"
)

// announce writes the one line of a bundle that was worked on, and a line for each thing that is wrong with it.
func announce(ctx context.Context, e *entry, d time.Duration) {
	s := e.status()
	count := map[State]int{}
	for _, i := range s.Images {
		count[i.State]++
	}
	line := log.G(ctx).WithFields(log.Fields{
		"bundle": s.Path, "format": s.Format, "images": len(s.Images),
		"loaded": count[Loaded], "repaired": count[Repaired], "present": count[Present], "failed": count[Failed], "seconds": took(d),
	})
	if s.Err == nil {
		line.Info("bundle is loaded")
		return
	}
	for _, text := range strings.Split(s.Err.Error(), "\n") {
		line.WithField("problem", text).Error("bundle is not loaded as a whole")
	}
}

// note writes a line for each name that an image does not get. It is known when all bundles are listed.
func note(ctx context.Context, entries []*entry) {
	for _, e := range entries {
		s := e.status()
		for _, i := range s.Images {
			for _, text := range i.Notes {
				log.G(ctx).WithFields(log.Fields{"bundle": s.Path, "digest": i.Digest}).Warn("name is not given to the image: " + text)
			}
		}
	}
}

// summarize writes the one line of a round of loading.
func summarize(ctx context.Context, entries []*entry, refused int, d time.Duration) {
	images, failed := 0, refused
	for _, e := range entries {
		s := e.status()
		images += len(s.Images)
		if s.State == Failed {
			failed++
		}
	}
	log.G(ctx).WithFields(log.Fields{"bundles": len(entries) + refused, "failed": failed, "images": images, "seconds": took(d)}).Info("bundles are loaded")
}
