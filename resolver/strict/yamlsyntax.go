// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yamlRoot parses text and returns its root, nil if it is empty. It is false after a problem was noted.
func (d *document) yamlRoot(text []byte) (root *yaml.Node, ok bool) {
	if len(text) > maxYAML {
		d.problem("", "is larger than %d bytes", maxYAML)
		return nil, false
	}
	if text, ok = d.plain(text); !ok {
		return nil, false
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		switch {
		case errors.Is(err, io.EOF):
			return root, true
		case err != nil:
			line, said := yamlMistake(text, err)
			*d.problems = append(*d.problems, Problem{File: d.Name, Line: line, Text: "YAML syntax: " + said})
			return nil, false
		}
		top := document.Content[0]
		switch {
		case top.ShortTag() == "!!null": // nothing, or comments, before or after ---
		case root != nil:
			*d.problems = append(*d.problems, Problem{File: d.Name, Line: top.Line, Text: "a second document begins (---); want one in a file"})
			return nil, false
		default:
			root = top
		}
	}
}

// yamlHints are what most likely happened where the library says this.
var yamlHints = []struct{ said, hint string }{
	{"expected alphabetic or numeric character", "text that begins with * or & wants quotes"},
	{"unknown anchor", "an alias (*) of what has no name; text that begins with * wants quotes"},
	{"cannot start any token", "a tab before a key, or text that begins with @, % or ` and wants quotes"},
	{"tab character that violates", "a tab before a key; indent with spaces"},
	{"mapping values are not allowed", "a key in a place where none can be: it is indented too deep, or text with a colon and a space wants quotes"},
	{"could not find expected ':'", "a line that is neither a key nor what a key holds; a key wants a colon after it"},
	{"did not find expected", "a line that does not fit, here or in what begins here; keys of one table begin in the same column"},
	{"unexpected end of stream", "a quote is not closed"},
	{"unknown escape", "a \\ in double quotes that is no escape; write \\\\, or use single quotes"},
	{"exceeded max depth", "nests too deep"},
	{"control characters", "a control character; want text"},
}

var (
	yamlLine = regexp.MustCompile(`^line (\d+): `)
	alias    = regexp.MustCompile(`(?:^|[:\-,\[{]\s*)\*`)
)

// yamlMistake returns the line of a syntax error, 1 if it is not known, and what it is about. The library's own words are not
// shown: they may quote what stands after a *, which may be a password.
func yamlMistake(text []byte, err error) (line int, said string) {
	said = strings.TrimPrefix(err.Error(), "yaml: ")
	line = 1
	if m := yamlLine.FindStringSubmatch(said); m != nil {
		line, _ = strconv.Atoi(m[1])
		said = said[len(m[0]):]
	}
	if name, ok := strings.CutPrefix(said, "unknown anchor '"); ok {
		name, _, _ = strings.Cut(name, "'")
		line = aliasLine(text, name)
	} else if strings.HasPrefix(said, "did not find expected") && !strings.HasSuffix(said, "character") {
		line++ // an error of its parser, which counts from 0
	}
	line = min(line, bytes.Count(text, []byte("\n"))+1)
	for _, h := range yamlHints {
		if strings.Contains(said, h.said) {
			return line, h.hint
		}
	}
	return line, fmt.Sprintf("not understood from line %d on", line)
}

// aliasLine returns the first line on which *name is a value.
func aliasLine(text []byte, name string) int {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		for _, at := range alias.FindAllIndex(line, -1) {
			if bytes.HasPrefix(line[at[1]:], []byte(name)) {
				return n
			}
		}
	}
	return 1
}
