// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package dropin

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/berth-edge/berth/resolver/strict"
)

// Unread is a key of containerd's configuration that containerd ignores and that was likely meant for a plugin.
type Unread struct {
	File string
	Line int
	// Key is the key as it stands, Text says what to write instead.
	Key, Text string
}

func (u Unread) String() string { return fmt.Sprintf("%s:%d: %s %s", u.File, u.Line, u.Key, u.Text) }

// Files are the files of containerd's configuration that can be read, in the order in which containerd merges them.
type Files []tables

type tables struct {
	file string
	text []byte
	top  map[string]any
}

// line returns the line of a key, by its path. They are counted only where there is something to say.
func (t tables) line(path string) int { return strict.Lines(t.text)[path] }

// Read reads configFile and the files that it imports.
func Read(configFile string) (all Files) {
	for _, file := range append([]string{configFile}, Imported(configFile)...) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		t := tables{file: file, text: text}
		if toml.Unmarshal(text, &t.top) == nil {
			all = append(all, t)
		}
	}
	return all
}

// Misplaced returns what was likely meant for a plugin, and has no effect: a table whose name is almost the plugin's, one whose
// name lacks its quotes, or keys of the plugin that stand at the top.
func (f Files) Misplaced(plugin string, keys ...string) []Unread {
	var found []Unread
	for _, t := range f {
		add := func(key, path, hint string) {
			found = append(found, Unread{File: t.file, Line: t.line(path), Key: key, Text: hint})
		}
		for _, key := range keys {
			if _, ok := t.top[key]; ok {
				add(key, key, fmt.Sprintf("has no effect at the top of containerd's configuration; move it below plugins.%q, or to a file of its config_path", plugin))
			}
		}
		sections, _ := t.top["plugins"].(map[string]any)
		if isNested(sections, plugin) {
			add("plugins."+plugin, "plugins."+plugin, fmt.Sprintf("has no effect without quotes around the plugin's name; write plugins.%q", plugin))
		}
		family := plugin[:strings.LastIndexByte(plugin, '.')+1]
		for _, section := range slices.Sorted(maps.Keys(sections)) {
			if section != plugin && (strict.Similar(section, plugin) || strings.HasPrefix(section, family)) {
				add(fmt.Sprintf("plugins.%q", section), "plugins."+section, fmt.Sprintf("is not a plugin; did you mean %q?", plugin))
			}
		}
	}
	return found
}

// Replaced returns the keys of a plugin, of those given, that a later file has too. They hold arrays of tables, of which containerd
// takes the last one whole.
func (f Files) Replaced(plugin string, keys ...string) (found []Unread) {
	earlier := map[string]tables{} // by the key
	for _, t := range f {
		sections, _ := t.top["plugins"].(map[string]any)
		own, _ := sections[plugin].(map[string]any)
		for _, key := range keys {
			if _, ok := own[key]; !ok {
				continue
			}
			if e, ok := earlier[key]; ok {
				found = append(found, Unread{
					File: e.file, Line: e.line("plugins." + plugin + "." + key), Key: fmt.Sprintf("plugins.%q.%s", plugin, key),
					Text: fmt.Sprintf("has no effect: %s has %s too, and containerd takes the last alone; write all in one place, or in files of config_path", t.file, key),
				})
			}
			earlier[key] = t
		}
	}
	return found
}

// isNested reports whether the dots of name lead through tables.
func isNested(tables map[string]any, name string) bool {
	for part := range strings.SplitSeq(name, ".") {
		next, ok := tables[part].(map[string]any)
		if !ok {
			return false
		}
		tables = next
	}
	return true
}
