// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// refusal is a path that is not read, and why.
type refusal struct {
	path string
	err  error
}

// find returns the bundles of paths: the path itself if it is a file or an OCI layout, else the files and layouts that
// lie in it, by name. What is not there is fine; what must not be trusted is refused, and the rest is returned with it.
func find(paths []string) (files []string, refused []refusal) {
	refuse := func(path string, err error) { refused = append(refused, refusal{path, err}) }
	found := map[string]bool{}
	add := func(path string) {
		if !found[path] {
			found[path] = true
			files = append(files, path)
		}
	}
	for _, path := range paths {
		path = filepath.Clean(path)
		if target, err := filepath.EvalSymlinks(path); err == nil {
			path = target // the path is the operator's own and may be a link
		}
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			err = fmt.Errorf("find bundles: %w", err)
		} else {
			err = trustedBundle(path, info)
		}
		switch {
		case !utf8.ValidString(path):
			refuse(unnameable(path, path))
		case err != nil:
			refuse(path, err)
		case !info.IsDir() || isLayout(path):
			add(path)
		default:
			findIn(path, paths, add, refuse)
		}
	}
	return files, refused
}

// refusalOf reports whether a bundle must not be trusted any more, and why. Who may change its folder may have put another there.
func refusalOf(path string) (refusal, bool) {
	_, refused := find([]string{path})
	if len(refused) == 0 {
		return refusal{}, false
	}
	return refusal{path, refused[0].err}, true
}

// findIn finds the bundles that lie in a directory, one of paths. Hidden files, and those that a copy in progress is called by,
// are none. A directory in it is not gone into; one with archives, which is none of paths, is refused rather than passed over.
func findIn(dir string, paths []string, add func(string), refuse func(string, error)) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		refuse(dir, fmt.Errorf("find bundles: %w", err))
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), ".partial") || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		at := path
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			at, info, err = follow(path)
		}
		switch {
		case err == nil && info.IsDir() && !isLayout(at):
			if holdsArchives(at) && !slices.ContainsFunc(paths, func(p string) bool { return isSame(p, info) }) {
				refuse(path, fmt.Errorf("find bundles: %s lies in a folder of bundles, and is not gone into; name it in paths", path))
			}
			continue // no bundle
		case !utf8.ValidString(path + at):
			refuse(unnameable(path, cmp.Or(at, path)))
			continue
		case err != nil:
			refuse(path, err)
			continue
		}
		if err := trustedBundle(at, info); err != nil {
			refuse(path, err)
			continue
		}
		add(at)
	}
}

// unnameable is why a bundle is refused that no label can name, nor an answer.
func unnameable(path, at string) (string, error) {
	return strings.Trim(strconv.Quote(path), `"`), fmt.Errorf("refusing bundle %q: its name is not UTF-8; rename it", at)
}

// holdsArchives reports whether a directory has files that are called as archives are. Their content is not looked at: whatever
// else a directory is there for, such as lost+found, is nobody's fault.
func holdsArchives(dir string) bool {
	entries, _ := os.ReadDir(dir) // what cannot be read holds nothing for us
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		name := strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".gz"), ".zst")
		return !e.IsDir() && !strings.HasPrefix(name, ".") && (strings.HasSuffix(name, ".tar") || strings.HasSuffix(name, ".tgz"))
	})
}

func isSame(path string, info fs.FileInfo) bool {
	there, err := os.Stat(path)
	return err == nil && os.SameFile(there, info)
}

// isLayout reports whether a directory is a bundle by itself. A folder of bundles may hold a layout of that very name.
func isLayout(dir string) bool {
	info, err := os.Lstat(filepath.Join(dir, ocispec.ImageLayoutFile))
	return err == nil && !info.IsDir()
}

// trustedBundle is trusted, and of a layout looks at the files that say what is in it, too. Its blobs may be anyone's: each is
// verified against its digest.
func trustedBundle(path string, info fs.FileInfo) error {
	if err := trusted(path, info); err != nil || !info.IsDir() || !isLayout(path) {
		return err
	}
	for _, name := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile} {
		file := filepath.Join(path, name)
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // which opening it says
		}
		if err != nil {
			return fmt.Errorf("find bundles: %w", err)
		}
		if err := trusted(file, info); err != nil {
			return err
		}
	}
	return nil
}

// trusted refuses what others than root, or the user that containerd runs as, can change: whoever can put a bundle there
// decides what the cluster runs.
func trusted(path string, info fs.FileInfo) error {
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("refusing bundle %s: it is %s, not a regular file or a directory", path, kind(info.Mode()))
	}
	what := "bundle"
	if info.IsDir() {
		what = "bundles in"
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("refusing %s %s: mode %04o: others can write to it; chmod go-w", what, path, mode)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("refusing %s %s: it belongs to user %d; chown root", what, path, stat.Uid)
	}
	return nil
}

// follow returns where a link leads. One into a directory that others can write to is refused.
func follow(path string) (string, fs.FileInfo, error) {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("find bundles: %s is a link that leads nowhere", path)
	}
	if err != nil {
		return "", nil, fmt.Errorf("find bundles: %w", err)
	}
	dir := filepath.Dir(target)
	info, err := os.Stat(dir)
	if err != nil {
		return "", nil, fmt.Errorf("find bundles: %w", err)
	}
	if err := trusted(dir, info); err != nil {
		return "", nil, err
	}
	info, err = os.Stat(target)
	return target, info, err
}

func kind(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}
