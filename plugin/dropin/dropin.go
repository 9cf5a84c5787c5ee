// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package dropin finds configuration that containerd does not read.
//
// Containerd reads the drop-ins of conf.d only when the main file exists and imports them. One that is not imported is
// silently not there, its required_plugins included.
package dropin

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Pattern matches the drop-ins that belong to the main file config.
func Pattern(config string) string {
	if absolute, err := filepath.Abs(config); err == nil {
		config = absolute
	}
	return filepath.Join(filepath.Dir(config), "conf.d", "*.toml")
}

// NotImported returns the drop-ins beside config that name any of the plugins and that config does not import.
func NotImported(config string, plugins ...string) []string {
	files, _ := filepath.Glob(Pattern(config))
	read := Imported(config)
	var missing []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || slices.ContainsFunc(read, func(other string) bool { return same(file, other) }) {
			continue
		}
		for _, plugin := range plugins {
			if bytes.Contains(text, []byte(plugin)) {
				missing = append(missing, file)
				break
			}
		}
	}
	return missing
}

// same reports whether two paths lead to one file.
func same(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// Imported returns the files that config imports, in the order in which containerd merges them.
func Imported(config string) []string {
	var files []string
	pending := []string{config}
	for len(pending) > 0 {
		file := pending[0]
		pending = pending[1:]
		if slices.Contains(files, file) {
			continue
		}
		files = append(files, file)
		pending = append(pending, imports(file)...)
	}
	return files[1:]
}

func imports(file string) []string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var c struct {
		Imports []string `toml:"imports"`
	}
	if toml.Unmarshal(text, &c) != nil {
		return nil
	}
	var files []string
	for _, path := range c.Imports { // as containerd's resolveImports
		path = filepath.Clean(path)
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(file), path)
		}
		if !strings.Contains(path, "*") {
			files = append(files, path)
			continue
		}
		matches, _ := filepath.Glob(path)
		files = append(files, matches...)
	}
	return files
}
