// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"sync"
)

// contact lets the first request to a registry go alone, so that those after it know what the registry asks for, and none of
// them is sent only to be refused.
type contact struct {
	first sync.Once
	made  chan struct{} // closed when the first request has its answer, or none
}

func newContact() *contact { return &contact{made: make(chan struct{})} }

// begin waits until a request may be sent. End must be called when it has its answer.
func (c *contact) begin(ctx context.Context) (end func(), err error) {
	first := false
	c.first.Do(func() { first = true })
	if first {
		return func() { close(c.made) }, nil
	}
	select {
	case <-c.made:
		return func() {}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
