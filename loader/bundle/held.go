// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"io"
	"io/fs"
	"sync"
)

// held is the open file, or directory, of a bundle. It is open only while somebody reads, since a file system with an open file
// on it cannot be unmounted. It is safe for concurrent use.
type held[F io.Closer] struct {
	reopen func() (F, error) // the same file each time, or an error

	mu     sync.Mutex
	file   F
	users  int
	closed bool
}

// take returns the file, which is open until release is called.
func (h *held[F]) take() (file F, release func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return file, nil, fs.ErrClosed
	}
	if h.users == 0 {
		if h.file, err = h.reopen(); err != nil {
			return file, nil, err
		}
	}
	h.users++
	return h.file, sync.OnceFunc(h.release), nil
}

func (h *held[F]) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users--; h.users == 0 && !h.closed {
		h.file.Close()
	}
}

// hold keeps the file open until release is called.
func (h *held[F]) hold() (release func(), err error) {
	_, release, err = h.take()
	return release, err
}

// Close closes the file, also for those who read it.
func (h *held[F]) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.users == 0 {
		h.closed = true
		return nil
	}
	h.closed = true
	return h.file.Close()
}
