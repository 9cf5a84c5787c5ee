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
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
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

// Paths returns a channel on which it sends after something changed in one of the directories that paths name, in one that
// holds what they name, or what a symbolic link among these leads to, until ctx ends. A path may be absent, and may be a
// pattern in its last element.
func Paths(ctx context.Context, paths ...string) <-chan struct{} {
	return watch(ctx, paths, false)
}

// Folders is as [Paths], and sends after something changed in a directory that lies in one of the paths, or behind a symbolic
// link in it, too.
func Folders(ctx context.Context, paths ...string) <-chan struct{} {
	return watch(ctx, paths, true)
}

// watch also follows what lies within paths if it is asked to.
func watch(ctx context.Context, paths []string, within bool) <-chan struct{} {
	changes := make(chan struct{}, 1)
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.G(ctx).WithError(err).Warnf("files cannot be watched; they are looked at every %s", pollEvery)
		go poll(ctx, changes)
		return changes
	}
	mounted := make(chan struct{}, 1)
	go mounts(ctx, mounted)
	go func() {
		defer recovered(ctx)
		defer w.Close()
		f := follower{watcher: w, paths: paths, within: within, watched: map[string]unix.Stat_t{}}
		f.follow()
		said := false
		for {
			var poll <-chan time.Time
			if f.unwatched != nil {
				poll = time.After(pollEvery)
				if !said {
					log.G(ctx).WithError(f.unwatched).Warnf("not all directories can be watched; files are looked at every %s", pollEvery)
				}
			}
			said = f.unwatched != nil
			select {
			case <-ctx.Done():
				return
			case <-poll:
			case <-w.Events:
				f.follow()
			case err := <-w.Errors: // events may have been lost
				log.G(ctx).WithError(err).Debug("watch files")
			case <-mounted:
				select {
				case <-ctx.Done():
					return
				case <-time.After(quiet): // containers that start, and containerd itself, mount much at once
				}
				if !f.follow() && f.unwatched == nil {
					continue // elsewhere
				}
			}
			if !settle(ctx, w) {
				return
			}
			f.follow()
			tell(changes)
		}
	}()
	return changes
}

// recovered keeps a panic from ending containerd.
func recovered(ctx context.Context) {
	if p := recover(); p != nil {
		log.G(ctx).Errorf("watch files: panic: %v; changes are no longer told of\n%s", p, debug.Stack())
	}
}

func tell(changes chan<- struct{}) {
	select {
	case changes <- struct{}{}:
	default: // it has not been heard yet, and says as much
	}
}

func poll(ctx context.Context, changes chan<- struct{}) {
	defer recovered(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pollEvery):
			tell(changes)
		}
	}
}

// follower watches the directories of paths, or where one is absent, the closest one above it.
type follower struct {
	watcher *fsnotify.Watcher
	paths   []string
	within  bool                   // what lies in paths is followed, too
	watched map[string]unix.Stat_t // by names without links: inotify has one watch of a directory, whatever names it has
	// unwatched is why a directory cannot be watched, nil if all are: the kernel has so many watches for a user.
	unwatched error
}

// follow watches what is there now. It reports whether a directory appeared, went, or is another of that name.
func (f *follower) follow() (changed bool) {
	wanted := map[string]unix.Stat_t{}
	seen := map[string]bool{} // most paths lie in the same few directories
	for _, path := range f.all() {
		found, target := links(path)
		dirs := []string{path, filepath.Dir(path), target, filepath.Dir(target)}
		for _, link := range found {
			dirs = append(dirs, filepath.Dir(link))
		}
		for _, dir := range dirs {
			if dir = existing(dir); seen[dir] {
				continue
			}
			seen[dir] = true
			resolved, err := filepath.EvalSymlinks(dir)
			var stat unix.Stat_t
			if err == nil && unix.Stat(resolved, &stat) == nil {
				wanted[resolved] = stat
			}
		}
	}
	alive := map[string]bool{} // what was unmounted, or renamed, is not watched any more, though it came back since
	for _, dir := range f.watcher.WatchList() {
		alive[dir] = true
	}
	for dir, was := range f.watched {
		if is, ok := wanted[dir]; !ok || is.Dev != was.Dev || is.Ino != was.Ino || !alive[dir] {
			_ = f.watcher.Remove(dir)
			delete(f.watched, dir)
			changed = true
		}
	}
	f.unwatched = nil
	for dir, is := range wanted {
		if _, ok := f.watched[dir]; ok {
			continue
		}
		err := f.watcher.Add(dir)
		switch {
		case err == nil:
			f.watched[dir] = is
			changed = true
		case !errors.Is(err, fs.ErrNotExist): // which whoever removed it makes an event of
			f.unwatched = fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	return changed
}

// all returns the paths, and what lies in them and may change without a change of theirs: directories and symbolic links.
func (f *follower) all() []string {
	if !f.within {
		return f.paths
	}
	all := slices.Clone(f.paths)
	for _, path := range f.paths {
		entries, err := os.ReadDir(path)
		if err != nil {
			continue // no directory, or not there yet
		}
		for _, e := range entries {
			if e.IsDir() || e.Type()&fs.ModeSymlink != 0 {
				all = append(all, filepath.Join(path, e.Name()))
			}
		}
	}
	return all
}

// links returns the symbolic links that lead to path: itself, or directories above it, and those that they lead to. Each may be
// switched to another target. The last target, which may be absent, is returned with them.
func links(path string) (found []string, target string) {
	const most = 40 // as in the kernel
	rest := strings.Split(strings.Trim(path, "/"), "/")
	at := "/"
	for len(rest) > 0 && len(found) < most {
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		to, err := os.Readlink(next)
		if err != nil { // not a link
			at = next
			continue
		}
		found = append(found, next)
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(strings.Trim(to, "/"), "/"), rest...)
	}
	return found, filepath.Join(append([]string{at}, rest...)...)
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
func settle(ctx context.Context, w *fsnotify.Watcher) bool {
	limit := time.After(10 * quiet)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.Events:
		case err := <-w.Errors:
			log.G(ctx).WithError(err).Debug("watch files")
		case <-limit: // something happens all the time
			return true
		case <-time.After(quiet):
			return true
		}
	}
}

// mounts tells when something was mounted or unmounted: who waits for /proc/self/mountinfo is woken then (proc(5)). Go's poller
// does, so that no thread has to.
func mounts(ctx context.Context, changes chan<- struct{}) {
	defer recovered(ctx)
	file, err := os.Open("/proc/self/mountinfo")
	if err == nil {
		defer file.Close()
		err = woken(ctx, file, func() { tell(changes) })
	}
	if ctx.Err() == nil {
		log.G(ctx).WithError(err).Warn("mounts cannot be watched")
	}
}

// woken calls f whenever what waits for a file is woken, until ctx ends.
func woken(ctx context.Context, file *os.File, f func()) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { file.Close() })()
	waits := false
	return conn.Read(func(uintptr) bool {
		if waits {
			f()
		}
		waits = true
		return false
	})
}
