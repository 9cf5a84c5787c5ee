// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxFile is the size above which a file is taken for a mistake: the manifests of a large cluster have 10 MB.
const maxFile = 64 << 20

// maxMistakes is how many mistakes of one file are reported.
const maxMistakes = 10

// extensions are of the files of a directory that are read.
var extensions = []string{".yaml", ".yml", ".json", ".txt"}

// IsFileName reports whether a file of that name is read if it is found in a directory.
func IsFileName(name string) bool {
	return slices.Contains(extensions, strings.ToLower(filepath.Ext(name)))
}

func (r *reader) path(path string) {
	if path == Stdin {
		if r.stdin == nil {
			r.errs = append(r.errs, errors.New(StdinName+": is named twice, and can be read once"))
			return
		}
		stdin := r.stdin
		r.stdin = nil
		r.file(StdinName, stdin)
		return
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		r.errs = append(r.errs, err)
	case info.IsDir():
		r.directory(path)
	default:
		r.open(path) // a pipe too: `-f <(helm template …)`
	}
}

// directory reads what is in a directory and below, sorted by name. Names that begin with a dot are of tools: .git, or the
// ..data of a mounted ConfigMap, whose files have links beside it.
func (r *reader) directory(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch {
		case strings.HasPrefix(entry.Name(), "."):
		case entry.IsDir():
			r.directory(path)
		case !IsFileName(path):
			r.found.LeftAlone = append(r.found.LeftAlone, path)
		default:
			if info, err := os.Stat(path); err != nil {
				r.errs = append(r.errs, err)
			} else if !info.Mode().IsRegular() {
				r.errs = append(r.errs, fmt.Errorf("%s: is not a regular file", path))
			} else {
				r.open(path)
			}
		}
	}
}

func (r *reader) open(path string) {
	f, err := os.Open(path)
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	defer f.Close()
	r.file(path, f)
}

// file reads one file, by its name or, where that does not say what it is, by its content.
func (r *reader) file(name string, from io.Reader) {
	text, err := io.ReadAll(io.LimitReader(from, maxFile+1))
	if err == nil {
		text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // a byte order mark
		err = checkText(text)
	}
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s: %w", name, err))
		return
	}
	var errs []error
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		errs = r.manifests(name, text)
	default:
		if isList(text) {
			errs = r.list(name, text)
		} else {
			errs = r.manifests(name, text)
		}
	}
	if more := len(errs) - maxMistakes; more > 0 {
		errs = append(errs[:maxMistakes], fmt.Errorf("%s: has %d more mistakes", name, more))
	}
	r.errs = append(r.errs, errs...)
}

func checkText(text []byte) error {
	switch {
	case len(text) > maxFile:
		return fmt.Errorf("is larger than %d bytes", maxFile)
	case bytes.HasPrefix(text, []byte{0x1f, 0x8b}):
		return errors.New("is compressed; if it is a chart, " + renderChart)
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}), bytes.HasPrefix(text, []byte{0xfe, 0xff}):
		return errors.New("is UTF-16 text, as PowerShell writes it; want UTF-8")
	case bytes.IndexByte(text, 0) >= 0:
		return errors.New("is binary; want manifests or a list of images, as UTF-8 text")
	case !utf8.Valid(text):
		return errors.New("is not UTF-8 text")
	}
	return nil
}
