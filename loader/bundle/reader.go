// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
)

// steady reads a file that must not get shorter: where its end comes too early it says so.
type steady struct{ f *os.File }

func (s steady) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.f.ReadAt(p, off)
	if errors.Is(err, io.EOF) && n < len(p) {
		err = &fs.PathError{Op: "read", Path: s.f.Name(), Err: ErrChanged}
	}
	return n, err
}

// section is content that reads, seeks, and reads at offsets.
type section struct {
	*io.SectionReader
	close func()
}

func (s *section) Close() error {
	if s.close != nil {
		s.close()
	}
	return nil
}

func bytesSection(data []byte) *section {
	return &section{SectionReader: io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))}
}

// rewinder reads at offsets what can only be read from its start. Nothing is opened before it is read.
type rewinder struct {
	open func() (io.ReadCloser, error)
	size int64

	mu sync.Mutex
	r  io.ReadCloser
	at int64
}

func (w *rewinder) Size() int64 { return w.size }

func (w *rewinder) ReadAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case off < 0:
		return 0, errors.New("read at a negative offset")
	case off >= w.size:
		return 0, io.EOF
	}
	if err := w.seek(off); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(w.r, p)
	w.at += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// seek brings w.r to off.
func (w *rewinder) seek(off int64) error {
	if w.r != nil && w.at > off {
		w.r.Close()
		w.r = nil
	}
	if w.r == nil {
		r, err := w.open()
		if err != nil {
			return err
		}
		w.r, w.at = r, 0
	}
	n, err := io.CopyN(io.Discard, w.r, off-w.at)
	w.at += n
	return err
}

func (w *rewinder) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.r == nil {
		return nil
	}
	err := w.r.Close()
	w.r = nil
	return err
}
