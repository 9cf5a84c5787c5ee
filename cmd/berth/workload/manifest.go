// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// manifests reads every document of a file.
func (r *reader) manifests(name string, text []byte) (errs []error) {
	if start := bytes.TrimSpace(text); len(start) > 0 && (start[0] == '{' || start[0] == '[') {
		documents, err := readJSON(name, text)
		if err != nil && strings.EqualFold(filepath.Ext(name), ".json") {
			return []error{err}
		}
		for _, document := range documents {
			errs = append(errs, r.document(name, document)...)
		}
		if err == nil {
			return errs
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return errs
		}
		if err != nil {
			return append(errs, syntaxError(name, text, err))
		}
		errs = append(errs, r.document(name, document.Content[0])...)
	}
}

func (r *reader) document(name string, top *yaml.Node) []error {
	at := Place{name, top.Line}
	if isNull(top) { // between one --- and the next
		return nil
	}
	if top.Kind != yaml.MappingNode {
		return []error{fmt.Errorf("%s: is no manifest: want a mapping with a kind (a list of images has one reference on a line and nothing before it, in a file such as images.txt)", at)}
	}
	s := newStructure(r, name)
	kind, version := text(s.field(top, "kind")), text(s.field(top, "apiVersion"))
	switch {
	case strings.HasPrefix(version, "kustomize.config.k8s.io/"), version == "" && (kind == "Kustomization" || isKustomization(name)):
		return []error{fmt.Errorf("%s: is a kustomization, which may change images; give what `kubectl kustomize` prints to -f -", at)}
	case kind == "":
		return []error{fmt.Errorf("%s: is no manifest: it has no kind; if it is of a chart, %s", at, renderChart)}
	case kind == "Images" && strings.HasPrefix(version, "output.kubeadm.k8s.io/"):
		s.each(s.field(top, "images"), s.reference)
	default:
		s.walk(top)
	}
	return s.errs
}

// isKustomization reports whether kustomize takes a file of that name for its own, which needs no kind then.
func isKustomization(path string) bool {
	name := filepath.Base(path)
	return name == "kustomization.yaml" || name == "kustomization.yml" || name == "Kustomization"
}

var (
	yamlLine      = regexp.MustCompile(`^line (\d+): `)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.+)' referenced$`)
	// parserText is what the library's parser says, whose lines it counts from 0; those of its scanner it counts from 1.
	parserText = regexp.MustCompile(`^did not find expected (key|'-' indicator|node content|',' or .*|<document start>|<stream-start>)$`)
)

// syntaxError is a mistake of YAML, with the line that the library says: where the part begins that it could not read.
func syntaxError(name string, content []byte, err error) error {
	said := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if m := yamlLine.FindStringSubmatch(said); m != nil {
		said = said[len(m[0]):]
		line, _ = strconv.Atoi(m[1])
		if parserText.MatchString(said) {
			line++
		}
	} else if m := unknownAnchor.FindStringSubmatch(said); m != nil {
		if before, _, ok := bytes.Cut(content, []byte("*"+m[1])); ok {
			line += bytes.Count(before, []byte("\n"))
		}
	}
	if bytes.Contains(content, []byte("{{")) {
		said += "; if it is a template, " + renderChart
	}
	return fmt.Errorf("%s: YAML syntax: %s", Place{name, line}, said)
}

// text is that of a scalar, "" if it is none.
func text(n *yaml.Node) string {
	if n = followed(n); n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// followed returns what n stands for. An alias never stands for another.
func followed(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	n = followed(n)
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}
