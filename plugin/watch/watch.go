// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package watch tells when something in a set of directories may have changed.
//
// It looks at the directories of paths and not at files, so that a file that is renamed into place, a link that is
// switched and a directory that appears are seen; and at the mounts of this machine, since inotify does not see a file
// system that is mounted over a directory.
package watch

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/log"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

const (
	// quiet is how long nothing must happen for a change to be told of.
	quiet = 200 * time.Millisecond
	// pollEvery is how often a change is assumed where nothing can be watched.
	pollEvery = 5 * time.Second
)

// Paths returns a channel on which it sends after something changed in one of the directories that paths name, or that
// hold what paths name, until ctx ends. A path may be absent, and may be a pattern in its last element.
func Paths(ctx context.Context, paths ...string) <-chan struct{} {
	changes := make(chan struct{}, 1)
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.G(ctx).WithError(err).Warnf("files cannot be watched; they are looked at every %s", pollEvery)
		go poll(ctx, changes)
		return changes
	}
	raw := make(chan struct{}, 1)
	go mounts(ctx, raw)
	go func() {
		defer w.Close()
		watched := map[string]bool{}
		for {
			follow(w, watched, paths)
			select {
			case <-ctx.Done():
				return
			case _, ok := <-w.Events:
				if !ok {
					return
				}
			case err := <-w.Errors: // events may have been lost
				log.G(ctx).WithError(err).Debug("watch files")
			case <-raw:
				for dir := range watched { // what is mounted there now is another directory
					_ = w.Remove(dir)
				}
				clear(watched)
			}
			follow(w, watched, paths)
			if !settle(ctx, w, raw) {
				return
			}
			tell(changes)
		}
	}()
	return changes
}

func tell(changes chan<- struct{}) {
	select {
	case changes <- struct{}{}:
	default: // it has not been heard yet, and says as much
	}
}

func poll(ctx context.Context, changes chan<- struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pollEvery):
			tell(changes)
		}
	}
}

// follow watches the directories of paths, or where one is absent, the closest one above it.
func follow(w *fsnotify.Watcher, watched map[string]bool, paths []string) {
	wanted := map[string]bool{}
	for _, path := range paths {
		for _, dir := range []string{path, filepath.Dir(path)} {
			wanted[existing(dir)] = true
		}
		if target, err := filepath.EvalSymlinks(path); err == nil && target != path {
			wanted[existing(target)] = true
			wanted[filepath.Dir(target)] = true
		}
	}
	for dir := range watched {
		if !wanted[dir] {
			_ = w.Remove(dir)
			delete(watched, dir)
		}
	}
	for dir := range wanted {
		if err := w.Add(dir); err == nil { // again, too: it may be another directory of that name
			watched[dir] = true
		}
	}
}

// existing returns path, or the closest directory above it that is there.
func existing(path string) string {
	for {
		info, err := os.Stat(path)
		if err == nil && info.IsDir() || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// settle waits until nothing happens any more. It reports whether ctx still runs.
func settle(ctx context.Context, w *fsnotify.Watcher, raw <-chan struct{}) bool {
	limit := time.After(10 * quiet)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.Events:
		case err := <-w.Errors:
			log.G(ctx).WithError(err).Debug("watch files")
		case <-raw:
		case <-limit: // something happens all the time
			return true
		case <-time.After(quiet):
			return true
		}
	}
}

// mounts tells when something was mounted or unmounted: /proc/self/mountinfo is readable with priority then (proc(5)).
func mounts(ctx context.Context, changes chan<- struct{}) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		log.G(ctx).WithError(err).Warn("mounts cannot be watched")
		return
	}
	defer f.Close()
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		n, err := unix.Poll(fds, int(time.Second/time.Millisecond))
		if err == nil && n > 0 {
			tell(changes)
		}
	}
}
