// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package strict_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/strict"
)

// SEC-08: what is wrong with the syntax of a YAML file is said with its line, and without anything of a value.
func TestYAMLSyntaxQuotesNothing(t *testing.T) {
	for _, text := range []string{
		"password: *SECRET", "password: **SECRET", "password: @SECRET", "password: `SECRET", "password: %SECRET", "password: \"SECRET", "password: 'SECRET",
		"password: \"\\SECRET\"", "password: SECRET: SECRET", "password: {SECRET", "password: [SECRET", "password: |SECRET", "password: >SECRET",
		"password: \"SECRET\"SECRET", "password: !<SECRET", "password: !SECRET!SECRET SECRET", "password: &SECRET *SECRET", "password: SEC\x01RET", "- SECRET", "SECRET", "\tSECRET: SECRET", "password: \"\\uSECRET\"", "password: ]SECRET",
	} {
		var problems strict.Problems
		strict.ParseYAML("f.yaml", []byte("a: 1\n"+text+"\n"), nil, &problems)
		if text == "- SECRET" && len(problems) == 0 {
			continue
		}
		if len(problems) != 1 || problems[0].Line == 0 || problems[0].Line > 3 {
			t.Errorf("%s: got %v, want one problem, with its line", text, problems)
			continue
		}
		said := problems[0].Text
		for _, secret := range []string{"SECRET", "SEC", "U+0053"} {
			if strings.Contains(said, secret) {
				t.Errorf("%s: got %q, with %q in it", text, said, secret)
			}
		}
	}
}

// The lines of keys are those they stand on, also of what an alias repeats and of what is merged.
func TestYAMLLines(t *testing.T) {
	const text = "a: &a\n  b: x\n  c:\n  - d\n  -\n    e: y\nf: *a\ng:\n  <<: *a\n  b: z\n\"h.i\":\n  j: 1\n"
	var problems strict.Problems
	table := strict.ParseYAML("f.yaml", []byte(text), nil, &problems)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for key, want := range map[string]int{
		"a": 1, "a.b": 2, "a.c": 3, "a.c[0]": 4, "a.c[1]": 6, "a.c[1].e": 6, "f": 7, "f.b": 2, "f.c[1].e": 6, "g": 8, "g.b": 10, "g.c": 3, "h.i": 11, "h.i.j": 12, "a.absent": 1, "absent": 0,
	} {
		if got := table.Line(key); got != want {
			t.Errorf("%s: got line %d, want %d", key, got, want)
		}
	}
	if got := table.Table("g").Text("b"); got != "z" {
		t.Errorf("got %q of a key that is its own and merged, want its own", got)
	}
	if got, want := table.Keys(), []string{"a", "f", "g", "h.i"}; !slices.Equal(got, want) {
		t.Errorf("got keys %q, want %q", got, want)
	}
}

// Only what is asked for is read, whatever the rest holds.
func TestYAMLOfOthers(t *testing.T) {
	const text = "theirs: {a: 1, a: 2, [b]: c, <<: 5}\nours: {x: 1}\ntheirs: again\n"
	var problems strict.Problems
	table := strict.ParseYAML("f.yaml", []byte(text), func(path string) bool { return strings.HasPrefix(path, "ours") }, &problems)
	if len(problems) > 0 || !table.Has("theirs") || !table.Table("ours").Has("x") {
		t.Errorf("got %v, %q, want both keys and no problem", problems, table.Keys())
	}
}

// A problem of what was translated has the name, the line and the file that its user knows.
func TestNames(t *testing.T) {
	var problems strict.Problems
	s := strict.Stanza{
		Name: "user-data", Values: map[string]any{"registries": []any{map[string]any{"domain": int64(5), "certificates": []any{int64(1)}}}},
		Lines: map[string]int{"registries[0]": 3, "registries[0].domain": 4},
		Names: map[string]string{"registries[0]": "stylus.one", "registries[0].domain": "stylus.one.host"},
	}
	for _, table := range s.Read(&problems).Tables("registries") {
		table.Text("domain")
		table.Texts("certificates")
	}
	for i, want := range []string{"user-data:4: stylus.one.host: is a number; want text", "user-data:3: stylus.one.certificates[0]: is a number; want a list"} {
		if len(problems) != 2 || !strings.HasPrefix(problems[i].Error(), want) {
			t.Errorf("got %v, want %q", problems, want)
		}
	}
}
