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

// tables are one file of containerd's configuration that can be read.
type tables struct {
	file  string
	top   map[string]any
	lines map[string]int
}

// read returns configFile and the files that it imports, as containerd merges them.
func read(configFile string) (all []tables) {
	for _, file := range append([]string{configFile}, Imported(configFile)...) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		t := tables{file: file, lines: strict.Lines(text)}
		if toml.Unmarshal(text, &t.top) == nil {
			all = append(all, t)
		}
	}
	return all
}

// Misplaced returns what of configFile and the files that it imports was likely meant for a plugin, and has no effect: a table
// whose name is almost the plugin's, one whose name lacks its quotes, or keys of the plugin that stand at the top.
func Misplaced(configFile, plugin string, keys ...string) []Unread {
	var found []Unread
	for _, t := range read(configFile) {
		add := func(key, path, hint string) {
			found = append(found, Unread{File: t.file, Line: t.lines[path], Key: key, Text: hint})
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

// Replaced returns the keys of a plugin, of those given, that a later file of configFile's imports has too. They hold arrays of
// tables, of which containerd takes the last one whole.
func Replaced(configFile, plugin string, keys ...string) (found []Unread) {
	earlier := map[string]Unread{} // by the key
	for _, t := range read(configFile) {
		sections, _ := t.top["plugins"].(map[string]any)
		own, _ := sections[plugin].(map[string]any)
		for _, key := range keys {
			if _, ok := own[key]; !ok {
				continue
			}
			if u, ok := earlier[key]; ok {
				u.Text = fmt.Sprintf("has no effect: %s has %s too, and containerd takes the last alone; write all in one place, or in files of config_path", t.file, key)
				found = append(found, u)
			}
			earlier[key] = Unread{File: t.file, Line: t.lines["plugins."+plugin+"."+key], Key: fmt.Sprintf("plugins.%q.%s", plugin, key)}
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
