// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Stanza is a table of containerd's merged configuration.
type Stanza struct {
	// Name is how problems name it.
	Name string
	// Values are its keys and values; nil is an absent stanza.
	Values map[string]any
	// Lines are the lines of its keys, if they are known, by their paths.
	Lines map[string]int
	// Files are the files of its first-level keys, where they are not Name: drop-ins add keys to it.
	Files map[string]string
	// Names are what keys are called where the user wrote them, by their paths, if they were translated. A key without
	// a name has that of the closest table around it, and what follows.
	Names map[string]string
}

// document is one parsed place of configuration, with the line of each key.
type document struct {
	Stanza
	problems *Problems
	yaml     bool
	text     []byte // of a TOML file, whose lines are counted when one is asked for; nil once they are
}

// Read returns the table of a stanza. What is wrong with it is added to problems.
func (s Stanza) Read(problems *Problems) *Table {
	return &Table{doc: &document{Stanza: s, problems: problems}, values: s.Values}
}

func (d *document) problem(key, format string, args ...any) {
	*d.problems = append(*d.problems, Problem{File: d.file(key), Line: d.line(key), Key: d.shown(key), Text: fmt.Sprintf(format, args...)})
}

// shown returns the name of key for the user.
func (d *document) shown(key string) string {
	for path := key; path != ""; path = around(path) {
		if name, ok := d.Names[path]; ok {
			return withoutUser(name + key[len(path):])
		}
	}
	return withoutUser(key)
}

// withoutUser hides a user and a password in a key: where keys are prefixes, one may be written as a URL.
func withoutUser(key string) string {
	at := strings.LastIndexByte(key, '@')
	if at < 0 || strings.HasPrefix(key[at:], "@sha") {
		return key
	}
	user := key[:at]
	if colon := strings.IndexByte(user, ':'); colon >= 0 {
		user = user[:colon]
	}
	return key[:strings.LastIndexByte(user, '.')+1] + "***" + key[at:]
}

// around returns the path of the table around key, "" for none.
func around(key string) string { return key[:max(strings.LastIndexAny(key, ".["), 0)] }

// file returns the file that key stands in.
func (d *document) file(key string) string {
	top, _, _ := strings.Cut(key, ".")
	top, _, _ = strings.Cut(top, "[")
	if file, ok := d.Files[top]; ok {
		return file
	}
	return d.Name
}

// line returns the line of key, or of the closest table around it.
func (d *document) line(key string) int {
	if d.text != nil {
		d.Lines, d.text = Lines(d.text), nil
	}
	for key != "" {
		if line, ok := d.Lines[key]; ok {
			return line
		}
		key = around(key)
	}
	return 0
}

// maxFile is the size above which a file is taken for a mistake.
const maxFile = 4 << 20

// ParseFile returns the table of a TOML file whose content is text.
func ParseFile(path string, text []byte, problems *Problems) *Table {
	d := &document{Stanza: Stanza{Name: path}, problems: problems}
	d.parse(text)
	return &Table{doc: d, values: d.Values}
}

// ReadFile reads a file of configuration: one that is regular, and not so large that it must be a mistake.
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, unread(err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%w; want a file", syscall.EISDIR)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, unread(err)
	}
	defer f.Close()
	return Read(f)
}

// Read is ReadFile of what is open.
func Read(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, unread(err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	return text, nil
}

// unread drops the path of err, which a problem says already.
func unread(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}

func (d *document) parse(text []byte) {
	text, ok := d.plain(text)
	if !ok {
		return
	}
	var decode *toml.DecodeError
	switch err := toml.Unmarshal(text, &d.Values); {
	case errors.As(err, &decode):
		line, _ := decode.Position()
		*d.problems = append(*d.problems, Problem{File: d.Name, Line: line, Text: "TOML syntax: " + syntax(decode)})
		return
	case err != nil:
		d.problem("", "TOML syntax: %v", err)
		return
	}
	d.text = text
}

// Syntax returns the mistake that keeps text, the content of a TOML file, from being parsed; nil if there is none.
func Syntax(file string, text []byte) Problems {
	var problems Problems
	ParseFile(file, text, &problems)
	return problems
}

// syntax is err without what it quotes, which may be of a password: the library shows a character, or a number as a whole.
func syntax(err *toml.DecodeError) string {
	text := strings.TrimPrefix(err.Error(), "toml: ")
	if strings.HasSuffix(text, "at start of value") {
		return "a value begins with an unexpected character; text wants quotes"
	}
	for _, quoting := range []string{" but got ", ": strconv.", "invalid escape character", ": U+"} {
		if before, _, ok := strings.Cut(text, quoting); ok {
			text = before
			if quoting == "invalid escape character" {
				text += quoting
			}
		}
	}
	return text
}

// Lines returns the line of every key and table of a TOML document by its path, such as rules[2].from. A path has
// dots between its parts, quoted or not.
func Lines(text []byte) map[string]int {
	lines := map[string]int{}
	counts := map[string]int{}
	at := lineCounter{text: text, line: 1}

	var p unstable.Parser
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table:
			path, offset := keyPath(e, "", counts)
			table = path
			lines[table] = at.of(offset)
		case unstable.ArrayTable:
			path, offset := keyPath(e, "", counts)
			table = fmt.Sprintf("%s[%d]", path, counts[path])
			counts[path]++
			lines[table] = at.of(offset)
			if _, ok := lines[path]; !ok {
				lines[path] = lines[table]
			}
		case unstable.KeyValue:
			path, offset := keyPath(e, table, nil)
			lines[path] = at.of(offset)
			for p := around(path); len(p) > len(table); p = around(p) { // a dotted key makes the tables around it
				if _, ok := lines[p]; !ok {
					lines[p] = lines[path]
				}
			}
		}
	}
	return lines
}

func lastIndex(count int) string { return fmt.Sprintf("[%d]", count-1) }

// keyPath joins the parts of a key below table. A part that names an array of tables means its last one.
func keyPath(e *unstable.Node, table string, counts map[string]int) (path string, offset uint32) {
	path = table
	first := true
	for it := e.Key(); it.Next(); {
		node := it.Node()
		if first {
			offset, first = node.Raw.Offset, false
		}
		if path != "" {
			path += "."
		}
		path += string(node.Data)
		if n := counts[path]; n > 0 && !it.IsLast() {
			path += lastIndex(n)
		}
	}
	return path, offset
}

// lineCounter counts lines up to offsets that only grow.
type lineCounter struct {
	text   []byte
	offset uint32
	line   int
}

func (c *lineCounter) of(offset uint32) int {
	if offset > c.offset && int(offset) <= len(c.text) {
		c.line += bytes.Count(c.text[c.offset:offset], []byte("\n"))
		c.offset = offset
	}
	return c.line
}
