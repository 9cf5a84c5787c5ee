// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"

	"github.com/berth-edge/berth/resolver/permission"
)

// maxSecretFile is the size above which a password file is taken for a mistake.
const maxSecretFile = 64 << 10

// settled is how old a change must be before a file with the same stat is taken for unchanged: file systems count time in
// steps, of up to two seconds.
const settled = 2 * time.Second

// file is a file with secrets, read again when it changed. A state that cannot be used, such as half of what somebody is
// writing, keeps the last that could, with one warning for each.
type file[T any] struct {
	key, path string // of the configuration
	max       int64
	strict    bool
	parse     func([]byte) (T, error)

	mu     sync.Mutex
	seen   stamp // of what was read last
	good   bool  // value is one that was good
	value  T
	turns  int    // how often value became another
	err    error  // of what was read last
	warned string // what was warned of last
	bad    error  // why it cannot be used as it is; nil if it can
	since  time.Time
}

func newFile[T any](key, path string, max int64, strict bool, parse func([]byte) (T, error)) *file[T] {
	return &file[T]{key: key, path: path, max: max, strict: strict, parse: parse}
}

// looks is how often a file is looked for that is absent: where a link above it is switched and what it led to is deleted, as
// kubelet does, one look may find the old target gone.
const looks = 5

// stamp tells one state of a file from another.
type stamp struct {
	dev, inode   uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func stampOf(info os.FileInfo) stamp {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{uint64(s.Dev), s.Ino, s.Size, s.Mtim, s.Ctim} //nolint:unconvert // of other widths elsewhere
}

func (s stamp) settled(now time.Time) bool { return now.Sub(time.Unix(s.ctime.Unix())) > settled }

// read returns what the file holds, or held when it could last be used.
func (f *file[T]) read(ctx context.Context) (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	readable, err := f.check()
	warning := ""
	switch {
	case err != nil && f.good:
		warning = fmt.Sprintf("%s: %v; what it held before stays in use", f.key, err)
	case err == nil && readable != nil:
		warning = fmt.Sprintf("%s: %v", f.key, readable)
	}
	if warning != "" && warning != f.warned {
		log.G(ctx).Warn(warning)
	}
	f.warned = warning
	if err != nil && f.bad == nil {
		f.since = time.Now()
	}
	f.bad = err
	if err != nil && !f.good {
		return f.value, fmt.Errorf("read %s: %w: %w", f.key, err, ErrUnavailable)
	}
	return f.value, nil
}

// version counts the changes of what read returns.
func (f *file[T]) version(ctx context.Context) int {
	_, _ = f.read(ctx) // who asks for a credential is told
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.turns
}

// trouble reads the file and returns why it cannot be used.
func (f *file[T]) trouble(ctx context.Context) (Trouble, bool) {
	_, _ = f.read(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad == nil {
		return Trouble{}, false
	}
	return Trouble{Text: fmt.Sprintf("%s: %v", f.key, f.bad), Since: f.since, Kept: f.good}, true
}

// permitted returns an error if the file is one that others can write, and a warning if they can read it.
func (f *file[T]) permitted() (warning, err error) {
	if err := permission.Writable(f.path); err != nil {
		return nil, err
	}
	warning = permission.Readable(f.path)
	if f.strict || errors.Is(warning, os.ErrNotExist) {
		return nil, warning
	}
	return warning, nil
}

// check reads the file as read does, once, and returns what would be warned of and what would fail.
func (f *file[T]) check() (warning, err error) {
	for range looks {
		if warning, err = f.permitted(); err == nil {
			err = f.refresh()
		}
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	var path *os.PathError
	if errors.As(err, &path) && errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%s: %w", f.path, path.Err) // and not the directory above that is missing too
	}
	return warning, err
}

// refresh reads the file if it changed. f.mu is held.
func (f *file[T]) refresh() error {
	info, err := os.Stat(f.path)
	if err != nil {
		f.seen = stamp{}
		return err
	}
	if now := stampOf(info); f.seen == now && now.settled(time.Now()) {
		return f.err
	}
	content, seen, err := readRegular(f.path, f.max)
	f.seen = seen
	if err == nil {
		var value T
		if value, err = f.parse(content); err != nil {
			err = fmt.Errorf("%s: %w", f.path, err)
		} else if !f.good || !reflect.DeepEqual(value, f.value) {
			f.value, f.good = value, true
			f.turns++
		}
	}
	f.err = err
	return err
}

// readRegular reads a file of at most max bytes, and no pipe, whose writer it would wait for.
func readRegular(path string, max int64) ([]byte, stamp, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, stamp{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, stamp{}, err
	}
	seen := stampOf(info)
	if !info.Mode().IsRegular() {
		return nil, seen, fmt.Errorf("%s: is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, seen, err
	}
	if int64(len(b)) > max {
		return nil, seen, fmt.Errorf("%s: larger than %d bytes", path, max)
	}
	return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), seen, nil // a byte order mark
}

// passwordFile is a user whose password is in a file.
type passwordFile struct {
	username string
	file     *file[Secret]
}

var (
	_ Versioned = (*passwordFile)(nil)
	_ Troubled  = (*passwordFile)(nil)
)

// Trouble implements [Troubled].
func (p *passwordFile) Trouble(ctx context.Context) (Trouble, bool) { return p.file.trouble(ctx) }

// Version implements [Versioned].
func (p *passwordFile) Version(ctx context.Context) int { return p.file.version(ctx) }

// Credential implements [Keychain].
func (p *passwordFile) Credential(ctx context.Context, _ string, _ Credential) (Credential, error) {
	password, err := p.file.read(ctx)
	if err != nil {
		return Credential{}, err
	}
	return Credential{p.username, password}, nil
}

func parsePassword(username string, b []byte) (Secret, error) {
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if err := CheckPassword(username, s); err != nil {
		return "", err
	}
	return Secret(s), nil
}
