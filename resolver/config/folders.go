// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
)

// folders are directories of which every file is read, as they were. A directory does not say that a file in it is written in
// place, or where a link in it leads. Hundreds of files are not looked at for every pull: see [Inputs.Look].
type folders struct {
	dirs    []string
	were    [sha256.Size]byte
	changed atomic.Bool
}

func seeFolders(dirs []string) *folders { return &folders{dirs: dirs, were: contentOf(dirs)} }

// contentOf tells one state of all files in dirs from another.
func contentOf(dirs []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			fmt.Fprintf(h, "%q %+v\n", path, identify(path))
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Look looks at each file of the directories that the system's certificates are in, which [Inputs.Changed] does not: from then on
// that reports them too.
func (in Inputs) Look() {
	if in.folders != nil && contentOf(in.folders.dirs) != in.folders.were {
		in.folders.changed.Store(true)
	}
}
