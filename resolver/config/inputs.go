// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/filestate"
	"github.com/berth-edge/berth/resolver/permission"
)

// Inputs are the files that a configuration was made from, as they were when they were read: those of config_path, and the
// certificates and keys that they name. Files that are read when they are needed are not among them. The zero value is none.
type Inputs struct {
	files map[string]filestate.State
	globs map[string][]string // what each pattern matched
	// unsafe are the files that others can write, or replace, and how: a directory above one may be what is mended.
	unsafe map[string]string
	// unfinished are the files of config_path that were open for writing, and so were not gone by.
	unfinished map[string]bool
	// roots are the system's certificates, nil where they are not asked for.
	roots *endpoint.Roots
}

// see notes the state of a file, before it is read.
func (in *Inputs) see(path string) {
	if _, ok := in.files[path]; ok {
		return
	}
	if in.files == nil {
		in.files = map[string]filestate.State{}
	}
	in.files[path] = filestate.Of(path)
}

func (in *Inputs) seeMatches(pattern string, files []string) {
	if in.globs == nil {
		in.globs = map[string][]string{}
	}
	in.globs[pattern] = files
}

// checkWritable returns how others can write a file, and notes it.
func (in *Inputs) checkWritable(path string) error {
	err := permission.Writable(path)
	if err != nil {
		if in.unsafe == nil {
			in.unsafe = map[string]string{}
		}
		in.unsafe[path] = err.Error()
	}
	return err
}

// checkFinished returns an error if a file is open for writing, and notes it: half of its rules may be missing, or all of them.
// One that was read before and is as it was then may have been opened since for whatever comes.
func (in *Inputs) checkFinished(path string, before Inputs) error {
	if in.files[path] == before.files[path] && !before.unfinished[path] || !isWritten(path) {
		return nil
	}
	if in.unfinished == nil {
		in.unfinished = map[string]bool{}
	}
	in.unfinished[path] = true
	return errors.New("is still being written; it is read again once it is closed")
}

// Changed reports whether any of them is another than it was, is gone, is new, is finished, or was unsafe and is not, or
// otherwise. Of the files among the system's certificates it knows what [Inputs.Look] saw.
func (in Inputs) Changed() bool {
	for path, was := range in.files {
		if filestate.Of(path) != was {
			return true
		}
	}
	for pattern, were := range in.globs {
		if files, _ := glob(pattern); !slices.Equal(files, were) {
			return true
		}
	}
	for path, was := range in.unsafe {
		if err := permission.Writable(path); err == nil || err.Error() != was {
			return true
		}
	}
	for path := range in.unfinished {
		if !isWritten(path) {
			return true
		}
	}
	return in.roots != nil && in.roots.Changed()
}

// Look looks at each file of the directories that the system's certificates are in, which [Inputs.Changed] does not: from then on
// that reports them too.
func (in Inputs) Look() {
	if in.roots != nil {
		in.roots.Look()
	}
}

// changed returns the files that are others than they were, those that are gone and new ones included.
func (in Inputs) changed() []string {
	found := map[string]bool{}
	for path, was := range in.files {
		if filestate.Of(path) != was {
			found[path] = true
		}
	}
	for pattern, were := range in.globs {
		files, _ := glob(pattern)
		for _, path := range append(files, were...) {
			if slices.Contains(files, path) != slices.Contains(were, path) {
				found[path] = true
			}
		}
	}
	return slices.Collect(maps.Keys(found))
}

// Settled reports whether what changed was left alone for the given time: a file that is still being written may have half
// of its rules. One that took the place of another is whole, since that is done for this very reason.
func (in Inputs) Settled(quiet time.Duration) bool {
	for _, path := range in.changed() {
		if filestate.Of(path).Replaces(in.files[path]) {
			continue
		}
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) { // its directory says when it went
			info, err = os.Stat(filepath.Dir(path))
		}
		if err != nil {
			continue
		}
		if age := time.Since(info.ModTime()); age >= 0 && age < quiet { // one in the future says nothing
			return false
		}
	}
	return true
}

// Written reports whether something of what changed is open for writing. Where the file system cannot tell, it is not.
func (in Inputs) Written() bool {
	return slices.ContainsFunc(in.changed(), isWritten)
}

// isWritten asks for a read lease, which there is none of while a file is open for writing (fcntl(2), F_SETLEASE).
func isWritten(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close() // ends the lease
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	return errors.Is(err, unix.EAGAIN)
}

// Paths returns what to watch: the files, and the patterns.
func (in Inputs) Paths() []string {
	paths := slices.Collect(maps.Keys(in.files))
	for pattern := range in.globs {
		paths = append(paths, pattern)
	}
	slices.Sort(paths)
	return paths
}

// glob returns what a pattern matches, sorted. As in a shell, a name that begins with a dot is not matched by a star: editors
// and tools keep such files while they write.
func glob(pattern string) ([]string, error) {
	files, err := filepath.Glob(pattern)
	files = slices.DeleteFunc(files, func(file string) bool {
		return strings.HasPrefix(filepath.Base(file), ".") && !strings.HasPrefix(filepath.Base(pattern), ".")
	})
	slices.Sort(files)
	return files, err
}
