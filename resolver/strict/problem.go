// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package strict

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Problem is one mistake in a configuration. It never quotes a secret.
type Problem struct {
	// File is the file, or the name of the stanza.
	File string
	// Line is 1 for the first line; 0 where there is none.
	Line int
	// Key is the path of the key, such as rules[2].from; "" for the file as a whole.
	Key string
	// Text says what is wrong and what is accepted.
	Text string
	// Meant is the path of the key that was likely meant by one that is not known, "" if there is none such.
	Meant string
}

func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	b.WriteString(": " + p.Text)
	return oneLine(b.String())
}

// oneLine escapes control characters, which a key in quotes may have.
func oneLine(s string) string {
	if !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// Problems are all mistakes of a configuration, each on a line of its own.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Err returns ps as an error, nil if there are none. They are in the order of the lines of each file. That a key is empty is
// not among them if it is written in another way.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	type key struct{ file, path string }
	meant := map[key]bool{}
	for _, p := range ps {
		meant[key{p.File, p.Meant}] = p.Meant != ""
	}
	ps = slices.DeleteFunc(slices.Clone(ps), func(p Problem) bool {
		return meant[key{p.File, p.Key}] && strings.HasPrefix(p.Text, "is empty")
	})
	files := map[string]int{}
	for _, p := range ps {
		if _, ok := files[p.File]; !ok {
			files[p.File] = len(files)
		}
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(files[a.File]-files[b.File], a.Line-b.Line)
	})
	return ps
}
