// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net"
	"sync"
	"time"
)

// delayListener makes its connections as slow to answer as a registry that is far away: what the server writes
// arrives d later. Bandwidth and order are untouched, and what is written meanwhile is delayed alongside, not behind,
// so that requests in parallel on one connection cost one round trip. The first answer of a connection takes d more,
// for the round trip of TCP's own handshake.
type delayListener struct {
	net.Listener
	d time.Duration
}

func (l delayListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &delayConn{Conn: conn, d: l.d, opened: time.Now(), wake: make(chan struct{}, 1)}
	c.room.L = &c.mu
	go c.deliver()
	return c, nil
}

// delayConn holds written data until it is due.
type delayConn struct {
	net.Conn
	d      time.Duration
	opened time.Time
	wake   chan struct{} // has a token after each change of what mu guards

	mu     sync.Mutex
	room   sync.Cond // on mu: queue became shorter, or err was set
	queue  []burst
	queued int // bytes in queue
	closed bool
	err    error
}

// window bounds what is under way on a connection: 32 MiB in 20 ms are more than loopback carries.
const window = 32 << 20

type burst struct {
	data []byte
	due  time.Time
}

// Write returns at once; an error of the connection is returned by a later call.
func (c *delayConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.queued > window && c.err == nil && !c.closed {
		c.room.Wait()
	}
	if c.closed {
		return 0, net.ErrClosed
	}
	if c.err != nil {
		return 0, c.err
	}
	due := time.Now().Add(c.d)
	if least := c.opened.Add(2 * c.d); due.Before(least) {
		due = least
	}
	c.queue = append(c.queue, burst{data: append([]byte(nil), p...), due: due})
	c.queued += len(p)
	c.signal()
	return len(p), nil
}

// Close closes the connection once everything written has been delivered.
func (c *delayConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	_ = c.Conn.SetReadDeadline(time.Now()) // ends a Read that is under way, as closing would
	_ = c.Conn.SetWriteDeadline(time.Now().Add(c.d + 5*time.Second))
	c.room.Broadcast()
	c.signal()
	return nil
}

// SetWriteDeadline does nothing: tls.Conn ends its writes by a deadline that has passed, which must not cut off what
// was written before.
func (c *delayConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets the deadline of reads only.
func (c *delayConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *delayConn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// deliver writes what is due until the connection is closed or fails.
func (c *delayConn) deliver() {
	defer func() { _ = c.Conn.Close() }()
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			closed := c.closed
			c.mu.Unlock()
			if closed {
				return
			}
			<-c.wake
			continue
		}
		next := c.queue[0]
		c.queue = c.queue[1:]
		c.queued -= len(next.data)
		c.room.Signal()
		c.mu.Unlock()
		time.Sleep(time.Until(next.due))
		if _, err := c.Conn.Write(next.data); err != nil {
			c.mu.Lock()
			c.err = err
			c.room.Broadcast()
			c.mu.Unlock()
			return
		}
	}
}
