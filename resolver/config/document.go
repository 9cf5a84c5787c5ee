// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is one parsed place of configuration, with the line of each key. A library can decode it strictly, but
// stops at the first value of a wrong type; every mistake is to be reported at once.
type document struct {
	name     string
	values   map[string]any
	lines    map[string]int    // by the path of a key
	files    map[string]string // by the first part of that path, where it is not name
	problems *Problems
}

func (d *document) problem(key, format string, args ...any) {
	*d.problems = append(*d.problems, Problem{d.file(key), d.line(key), key, fmt.Sprintf(format, args...)})
}

// file returns the file that key stands in.
func (d *document) file(key string) string {
	top, _, _ := strings.Cut(key, ".")
	top, _, _ = strings.Cut(top, "[")
	if file, ok := d.files[top]; ok {
		return file
	}
	return d.name
}

// line returns the line of key, or of the closest table around it.
func (d *document) line(key string) int {
	for key != "" {
		if line, ok := d.lines[key]; ok {
			return line
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

// maxFile is the size above which a file is taken for a mistake.
const maxFile = 4 << 20

// readDocument reads a file of our own. A missing file is a problem like any other.
func readDocument(path string, problems *Problems) *document {
	d := &document{name: path, problems: problems}
	switch filepath.Ext(path) {
	case ".yaml", ".yml":
		d.problem("", "a cloud-config is not read by this version; write the same as TOML")
		return d
	}
	text, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) {
		d.problem("", "no such file; pulls are refused until it appears")
		return d
	}
	if err != nil {
		d.problem("", "%v", err)
		return d
	}
	d.parse(text)
	return d
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, unread(err)
	}
	if info.IsDir() {
		return nil, errors.New("is a directory; want a file, or a pattern such as " + filepath.Join(path, "*.toml"))
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, unread(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
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
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // a byte order mark
	var decode *toml.DecodeError
	switch err := toml.Unmarshal(text, &d.values); {
	case errors.As(err, &decode):
		line, _ := decode.Position()
		*d.problems = append(*d.problems, Problem{d.name, line, "", "TOML syntax: " + syntax(decode)})
		return
	case err != nil:
		d.problem("", "TOML syntax: %v", err)
		return
	}
	d.lines = Lines(text)
}

// Syntax returns the mistake that keeps text, the content of a TOML file, from being parsed; nil if there is none.
func Syntax(file string, text []byte) Problems {
	var problems Problems
	(&document{name: file, problems: &problems}).parse(text)
	return problems
}

// syntax is err without the characters that it quotes, which may be the first of a password.
func syntax(err *toml.DecodeError) string {
	text := strings.TrimPrefix(err.Error(), "toml: ")
	if strings.HasSuffix(text, "at start of value") {
		return "a value begins with an unexpected character; text wants quotes"
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
