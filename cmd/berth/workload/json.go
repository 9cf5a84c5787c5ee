// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// maxDepth is how deep JSON may be nested; the YAML library has a limit of its own.
const maxDepth = 1000

// readJSON returns the documents of JSON as the nodes of YAML, with their lines. JSON is not quite YAML: "\/" is no escape
// there, and neither are two of them for one character.
func readJSON(name string, text []byte) ([]*yaml.Node, error) {
	d := jsonReader{Decoder: json.NewDecoder(bytes.NewReader(text)), text: text, line: 1}
	d.UseNumber()
	var documents []*yaml.Node
	for {
		document, err := d.value(0)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: JSON syntax: %w", Place{name, d.at()}, err)
		}
		documents = append(documents, document)
	}
}

type jsonReader struct {
	*json.Decoder
	text   []byte
	offset int64 // up to which lines are counted
	line   int
}

// at returns the line that was read last.
func (d *jsonReader) at() int {
	next := d.InputOffset()
	d.line += bytes.Count(d.text[d.offset:next], []byte("\n"))
	d.offset = next
	return d.line
}

func (d *jsonReader) value(depth int) (*yaml.Node, error) {
	token, err := d.Token()
	if errors.Is(err, io.EOF) && depth > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && depth > maxDepth {
		err = fmt.Errorf("is nested deeper than %d", maxDepth)
	}
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: d.at()}
	switch token := token.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		if token == '{' {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		for d.More() { // the keys of a mapping are values too
			element, err := d.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, element)
		}
		_, err = d.Token() // its end
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	case string:
		n.Tag, n.Value = "!!str", token
	case json.Number:
		n.Tag, n.Value = "!!float", token.String()
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(token)
	case nil:
		n.Tag = "!!null"
	}
	return n, err
}
