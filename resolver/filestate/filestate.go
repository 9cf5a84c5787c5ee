// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package filestate tells one state of a file from another, by what its inode says: nothing of the file is read.
package filestate

import "golang.org/x/sys/unix"

// State is what an inode says of a file. States are compared with ==.
type State struct {
	Dev, Ino     uint64
	Size         int64
	Mode, UID    uint32
	Mtime, Ctime unix.Timespec
	Err          string // why it cannot be looked at; it may be absent
}

// Of returns the state of the file at path. Links are followed.
func Of(path string) State {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return State{Err: err.Error()}
	}
	return State{Dev: s.Dev, Ino: s.Ino, Size: s.Size, Mode: s.Mode, UID: s.Uid, Mtime: s.Mtim, Ctime: s.Ctim}
}

// Replaces reports whether s is another file in the place of the one that was.
func (s State) Replaces(was State) bool {
	return s.Err == "" && was.Err == "" && was.Ino != 0 && (s.Ino != was.Ino || s.Dev != was.Dev)
}
