// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package permission tells who else can write or read a file.
//
// A file that others can write is theirs as much as ours: they would choose the registry, or run a program as root. One
// with a secret that others can read is a secret no more. Others are all but root and the user that this process runs as.
// A symbolic link is followed: what counts is its target, and every directory on the way, since who can write to one can
// put another file in its place.
package permission

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks bounds a chain of symbolic links, as Linux does.
const maxLinks = 40

// Writable returns an error that says how others can write, or replace, the file at path; nil if they cannot. An error of
// looking at it is returned too, and unwraps to [os.PathError].
func Writable(path string) error {
	if !filepath.IsAbs(path) { // one that is stays as it is: Abs would take .. behind a link for what is above the link
		abs, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		path = abs
	}
	at, rest := "/", strings.Split(path, "/") // the first is empty, and so the root itself
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0]) // at has no links in it: .. is what the kernel takes it for
		rest = rest[1:]
		info, err := os.Lstat(next)
		if err != nil {
			return err
		}
		if err := check(next, info); err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			at = next
			continue
		}
		target, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if links++; links > maxLinks {
			return &os.PathError{Op: "follow", Path: path, Err: syscall.ELOOP}
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return nil
}

// check looks at one file, directory or link. Others may write to a directory that is sticky: they cannot replace what is
// not theirs. A link of theirs in it they can. The mode of a link says nothing.
func check(path string, info os.FileInfo) error {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, who can write to it; chown -h root %s", path, stat.Uid, path)
	}
	if info.Mode()&os.ModeSymlink != 0 {
		return nil
	}
	sticky := info.IsDir() && info.Mode()&os.ModeSticky != 0
	if mode := info.Mode().Perm(); mode&0o022 != 0 && !sticky {
		return fmt.Errorf("%s has mode %04o: others can write to it; chmod go-w %s", path, mode, path)
	}
	return nil
}

// Readable returns an error that says that others can read the file at path; nil if they cannot. An error of looking at it
// is returned too, and unwraps to [os.PathError].
func Readable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o044 != 0 {
		return fmt.Errorf("%s has mode %04o, want 0600: others can read the secret in it; chmod 600 %s", path, mode, path)
	}
	return nil
}
