// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package strict

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of what is read of a YAML file. An alias repeats what it names, so few bytes may stand for very much.
const (
	maxYAML       = 1 << 20
	maxYAMLValues = 100_000
	maxYAMLDepth  = 32
)

// ParseYAML returns the mapping that a YAML file whose content is text consists of; one without keys, if what is wrong with
// it, or its being empty, leaves none. ours reports whether the value at a path of keys, such as stylus.site, is to be read;
// nil is everything. The rest of a file that belongs to others may hold what it likes, but has to be YAML.
func ParseYAML(path string, text []byte, ours func(path string) bool, problems *Problems) *Table {
	d := &document{Stanza: Stanza{Name: path, Lines: map[string]int{}}, problems: problems, yaml: true}
	t := &Table{doc: d, values: map[string]any{}}
	root, ok := d.yamlRoot(text)
	if !ok || root == nil {
		return t
	}
	if ours == nil {
		ours = func(string) bool { return true }
	}
	r := yamlReader{document: d, ours: ours, left: maxYAMLValues}
	v := r.value(root, "", 0)
	if values, ok := v.(map[string]any); ok {
		t.values = values
	} else {
		*problems = append(*problems, Problem{File: path, Line: root.Line, Text: "is " + typeName(v) + "; want keys and values"})
	}
	return t
}

// TopKeys returns the keys of the mapping that a YAML document consists of, nil if it is none: what tells files of different
// kinds apart.
func TopKeys(text []byte) []string {
	var problems Problems
	t := ParseYAML("", text, func(string) bool { return false }, &problems)
	if len(problems) > 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(t.values))
}

// null is a value that YAML has for nothing, and what likely made it so.
type null struct{ why string }

func (n null) text() string { return "nothing" + n.why }

// others is the value of a key that is left to others.
type others struct{}

// tooMuch stands for what is not read, since the whole would be too large.
type tooMuch struct{}

// yamlReader makes values as TOML has them of the nodes of a document.
type yamlReader struct {
	*document
	ours func(path string) bool
	left int  // values that may still be read
	full bool // that there was too much is noted
}

// value returns the value of a node at a path of keys.
func (r *yamlReader) value(n *yaml.Node, path string, depth int) any {
	if r.left--; r.left < 0 || depth > maxYAMLDepth {
		if !r.full {
			r.problem(path, "holds too much, or nests too deep; an alias (*name) repeats all that it stands for")
		}
		r.full = true
		return tooMuch{}
	}
	switch n.Kind {
	case yaml.AliasNode:
		return r.value(n.Alias, path, depth+1)
	case yaml.MappingNode:
		return r.mapping(n, path, depth)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for i, e := range n.Content {
			if r.full {
				break
			}
			at := fmt.Sprintf("%s[%d]", path, i)
			r.Lines[at] = e.Line
			list = append(list, r.value(e, at, depth+1))
		}
		return list
	}
	return scalar(n)
}

func (r *yamlReader) mapping(n *yaml.Node, path string, depth int) any {
	values, again := map[string]any{}, map[string]bool{}
	for _, p := range r.pairs(n, path, depth) {
		if r.full {
			break
		}
		name, at := p.key.Value, p.key.Value
		if path != "" {
			at = path + "." + name
		}
		_, twice := values[name]
		switch {
		case p.key.Kind != yaml.ScalarNode:
			if r.ours(path) && path != "" {
				*r.problems = append(*r.problems, Problem{File: r.Name, Line: p.key.Line, Key: r.shown(path), Text: "has a key that is no text"})
			}
		case !r.ours(at):
			values[name] = others{}
			r.Lines[at] = p.key.Line
		case !twice:
			r.Lines[at] = p.key.Line
			values[name] = r.value(p.value, at, depth+1)
		case !p.merged && !again[name]:
			again[name] = true
			*r.problems = append(*r.problems, Problem{File: r.Name, Line: p.key.Line, Key: r.shown(at), Text: fmt.Sprintf("is already defined at %s:%d", r.Name, r.Lines[at])})
		}
	}
	return values
}

// pair is a key of a mapping and its value, its own or from a mapping that it merges.
type pair struct {
	key, value *yaml.Node
	merged     bool
}

// pairs returns the keys of a mapping, and after them those of the mappings that it merges (<<: *name).
func (r *yamlReader) pairs(n *yaml.Node, path string, depth int) []pair {
	var own, merged []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i], n.Content[i+1]
		if key.ShortTag() != "!!merge" {
			own = append(own, pair{key, v, false})
			continue
		}
		if v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		if v.Kind != yaml.MappingNode {
			r.problem(path, "has a << that is no mapping")
			continue
		}
		if r.left--; r.left < 0 || depth > maxYAMLDepth {
			continue
		}
		from := r.pairs(v, path, depth+1)
		r.left -= len(from)
		for _, p := range from {
			merged = append(merged, pair{p.key, p.value, true})
		}
	}
	return append(own, merged...)
}

// scalar returns text, true or false, a number, or a null. What is text in quotes is text, whatever it looks like.
func scalar(n *yaml.Node) any {
	switch tag := n.ShortTag(); tag {
	case "!!str":
		return n.Value
	case "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b
		}
	case "!!int", "!!float":
		return float64(0) // no key of ours wants one: only its type matters
	case "!!null":
		switch {
		case n.Anchor != "":
			return null{", since what begins with & is an anchor"}
		case n.Value == "":
			return null{" (what begins with # is a comment)"}
		}
		return null{}
	case "!!timestamp":
	default:
		return null{", since what begins with ! is a tag"}
	}
	return nil
}

// Keys returns the keys that are written, in the order of their lines.
func (t *Table) Keys() []string {
	return slices.SortedFunc(maps.Keys(t.values), func(a, b string) int {
		return cmp.Or(t.Line(a)-t.Line(b), strings.Compare(a, b))
	})
}

// IsText, IsTruth and IsNull report of what type the value of a key is, where more than one is accepted. Null is what YAML
// has for nothing.
func (t *Table) IsText(key string) bool  { _, ok := t.values[key].(string); return ok }
func (t *Table) IsTruth(key string) bool { _, ok := t.values[key].(bool); return ok }
func (t *Table) IsNull(key string) bool  { _, ok := t.values[key].(null); return ok }
