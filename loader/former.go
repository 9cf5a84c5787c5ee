// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/log"
)

// former are the bundles of the loader's paths, of this round and of those before that were not let go of yet. It outlives
// containerd: a bundle may be there still and be none of them any more, since a path leads elsewhere now, by the stanza or by a
// symbolic link. One that was loaded by hand is there, too, and stays what it is.
type former struct {
	file  string
	known map[string]bool // nil until it is read
}

// add adds the bundles that there are.
func (f *former) add(ctx context.Context, paths []string) {
	if f.known == nil {
		f.known = map[string]bool{}
		text, err := os.ReadFile(f.file)
		var before []string
		if err == nil {
			err = json.Unmarshal(text, &before)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.G(ctx).WithError(err).WithField("file", f.file).Warn("find out which bundles there were; where a path leads elsewhere since, their images stay pinned")
		}
		for _, path := range before {
			f.known[path] = true
		}
	}
	for _, path := range paths {
		f.known[path] = true
	}
	f.write(ctx)
}

// set leaves only the bundles that there are.
func (f *former) set(ctx context.Context, paths []string) {
	f.known = setOf(paths)
	f.write(ctx)
}

func (f *former) write(ctx context.Context) {
	paths := make([]string, 0, len(f.known))
	for path := range f.known {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	text, err := json.Marshal(paths)
	if old, unread := os.ReadFile(f.file); unread == nil && string(old) == string(text) || len(paths) == 0 && unread != nil {
		return
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(f.file), 0o700)
	}
	if err == nil {
		err = writeFile(f.file, text)
	}
	if err != nil {
		log.G(ctx).WithError(fmt.Errorf("write %s: %w", f.file, err)).Warn("remember which bundles there are")
	}
}
