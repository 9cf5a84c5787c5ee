// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"sync"

	"github.com/containerd/containerd/v2/core/transfer"
	"golang.org/x/sync/semaphore"
)

// Downloads is a limit of concurrent downloads that takes the place of the transfer service's own. The zero value
// leaves that in force.
type Downloads struct {
	mu      sync.Mutex
	set     bool
	max     int
	limiter *semaphore.Weighted
}

// Limit sets the limit; 0 or less is none.
func (d *Downloads) Limit(max int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set, d.max, d.limiter = true, max, nil
	if max > 0 {
		d.limiter = semaphore.NewWeighted(int64(max))
	}
}

func (d *Downloads) options() []transfer.ImageResolverOption {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.set {
		return nil
	}
	return []transfer.ImageResolverOption{
		transfer.WithDownloadLimiter(d.limiter),
		transfer.WithMaxConcurrentDownloads(d.max),
	}
}
