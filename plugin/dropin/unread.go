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

// Misplaced returns what of configFile and the files that it imports was likely meant for a plugin, and has no effect: a table
// whose name is almost the plugin's, one whose name lacks its quotes, or keys of the plugin that stand at the top.
func Misplaced(configFile, plugin string, keys ...string) []Unread {
	var found []Unread
	for _, file := range append([]string{configFile}, Imported(configFile)...) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var top map[string]any
		if toml.Unmarshal(text, &top) != nil {
			continue
		}
		lines := strict.Lines(text)
		add := func(key, path, hint string) {
			found = append(found, Unread{File: file, Line: lines[path], Key: key, Text: hint})
		}
		for _, key := range keys {
			if _, ok := top[key]; ok {
				add(key, key, fmt.Sprintf("has no effect at the top of containerd's configuration; move it below plugins.%q, or to a file of its config_path", plugin))
			}
		}
		sections, _ := top["plugins"].(map[string]any)
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
