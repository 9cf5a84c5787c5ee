// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// refusal is a path that is not looked into, and why.
type refusal struct {
	path  string
	cause error
}

func (r refusal) Error() string { return r.cause.Error() }

func (r refusal) Unwrap() error { return r.cause }

type refusals []refusal

func (rs *refusals) add(path string, cause error) { *rs = append(*rs, refusal{path, cause}) }

// err joins them; nil if there are none.
func (rs refusals) err() error {
	var errs []error
	for _, r := range rs {
		errs = append(errs, r)
	}
	return errors.Join(errs...)
}

// find returns the bundles of paths: the path itself if it is a file or an OCI layout, else the files and layouts that
// lie in it, by name. What is not there is fine; what must not be trusted is refused, and the rest is returned with it.
func find(paths []string) (files []string, refused refusals) {
	add := func(path string) {
		if !slices.Contains(files, path) {
			files = append(files, path)
		}
	}
	for _, path := range paths {
		path = filepath.Clean(path)
		if target, err := filepath.EvalSymlinks(path); err == nil {
			path = target // the path is the operator's own and may be a link
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			refused.add(path, fmt.Errorf("find bundles: %w", err))
			continue
		case !info.IsDir() || isLayout(path):
			if err := trusted(path, info); err != nil {
				refused.add(path, err)
				continue
			}
			add(path)
			continue
		}
		if err := trusted(path, info); err != nil {
			refused.add(path, err)
			continue
		}
		inside, not := findIn(path)
		refused = append(refused, not...)
		for _, file := range inside {
			add(file)
		}
	}
	return files, refused
}

// findIn returns the bundles that lie in a directory. Hidden files, and those that a copy in progress is called by, are
// none.
func findIn(dir string) (files []string, refused refusals) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		refused.add(dir, fmt.Errorf("find bundles: %w", err))
		return nil, refused
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
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			info, err = os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("find bundles: %s is a link that leads nowhere", path)
			}
			if err == nil {
				path, err = trustedTarget(path)
			}
		}
		if err != nil {
			refused.add(path, err)
			continue
		}
		switch {
		case info.IsDir() && !isLayout(path), !info.IsDir() && !info.Mode().IsRegular():
			continue // no bundle
		}
		if err := trusted(path, info); err != nil {
			refused.add(path, err)
			continue
		}
		files = append(files, path)
	}
	return files, refused
}

func isLayout(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, ocispec.ImageLayoutFile))
	return err == nil
}

// trusted refuses what others than root, or the user that containerd runs as, can change: whoever can put a bundle there
// decides what the cluster runs.
func trusted(path string, info fs.FileInfo) error {
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("refusing bundle %s: it is no regular file", path)
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

// trustedTarget returns where a link leads. One into a directory that others can write to is refused.
func trustedTarget(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("find bundles: %w", err)
	}
	dir := filepath.Dir(target)
	info, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("find bundles: %w", err)
	}
	return target, trusted(dir, info)
}
