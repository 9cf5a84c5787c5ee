// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/berth-edge/berth/resolver"
)

// structure finds the images of one document. Each node is looked at once for what it is and once for each field that is asked of it,
// however many aliases lead to it: a document of aliases to aliases costs as much as it is long.
type structure struct {
	reader *reader
	name   string
	walked map[*yaml.Node]bool
	asked  map[question]*yaml.Node
	read   map[question]bool // what of a node was read already
	errs   []error
}

// question is a node, and the field or the part that is wanted of it.
type question struct {
	node *yaml.Node
	want string
}

func newStructure(r *reader, name string) *structure {
	return &structure{reader: r, name: name, walked: map[*yaml.Node]bool{}, asked: map[question]*yaml.Node{}, read: map[question]bool{}}
}

// walk looks for lists of containers and of volumes, at any depth.
func (s *structure) walk(n *yaml.Node) {
	if n = followed(n); s.walked[n] {
		return
	}
	s.walked[n] = true
	if n.Kind == yaml.SequenceNode {
		for _, element := range n.Content {
			s.walk(element)
		}
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		value := n.Content[i+1]
		switch n.Content[i].Value {
		case "containers", "initContainers", "ephemeralContainers":
			s.each(value, s.container)
		case "volumes":
			s.each(value, s.volume)
		case "image":
			s.elsewhere(n, value)
		}
		s.walk(value)
	}
}

// each calls f for the elements of a list. What is no list has none: a schema describes containers in a mapping.
func (s *structure) each(list *yaml.Node, f func(*yaml.Node)) {
	if list = followed(list); list == nil || list.Kind != yaml.SequenceNode {
		return
	}
	for _, element := range list.Content {
		f(element)
	}
}

// container reads the image of a container. One that has none is not complete: it adds to a container of the same name.
func (s *structure) container(n *yaml.Node) {
	if s.once(n, "container") {
		if image := s.field(n, "image"); image != nil {
			s.reference(image)
		}
	}
}

func (s *structure) volume(n *yaml.Node) {
	if !s.once(n, "volume") {
		return
	}
	if image := followed(s.field(n, "image")); image != nil && image.Kind == yaml.MappingNode {
		if ref := s.field(image, "reference"); ref != nil {
			s.reference(ref)
		}
	}
}

// elsewhere notes an image of a mapping that is no container, such as the spec of an operator's resource. A word alone may be anything.
func (s *structure) elsewhere(of, image *yaml.Node) {
	ref := text(image)
	if s.read[question{of, "container"}] || !strings.ContainsAny(ref, "/:") || noReference(ref) != "" {
		return
	}
	if named, err := resolver.ParseNamed(ref); err == nil {
		s.reader.found.Elsewhere = append(s.reader.found.Elsewhere, Image{ref, named, []Place{{s.name, image.Line}}})
	}
}

func (s *structure) once(n *yaml.Node, part string) bool {
	q := question{followed(n), part}
	if s.read[q] {
		return false
	}
	s.read[q] = true
	return true
}

// reference adds an image at the line of n. Where n is an alias, that is where the image is used.
func (s *structure) reference(n *yaml.Node) {
	place, value := Place{s.name, n.Line}, followed(n)
	switch {
	case value.Kind == yaml.MappingNode && len(value.Content) > 0 && followed(value.Content[0]).Kind == yaml.MappingNode:
		s.mistake(place, "image is a template; %s", renderChart) // {{ … }} without quotes is a mapping inside of a mapping
	case value.Kind != yaml.ScalarNode:
		s.mistake(place, "image is not text; in the values of a chart it may be so: %s", renderChart)
	case isNull(value), value.Value == "":
		s.mistake(place, "image is empty; want a reference")
	case value.ShortTag() != "!!str":
		s.mistake(place, "image is a number or the like (%s); put quotes around it", strings.TrimPrefix(value.ShortTag(), "!!"))
	default:
		if err := s.reader.add(value.Value, place); err != nil {
			s.errs = append(s.errs, err)
		}
	}
}

func (s *structure) mistake(place Place, format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf("%s: %s", place, fmt.Sprintf(format, args...)))
}

// field returns the value of a key of a mapping, nil if there is none. What is merged into it (<<) stands behind its own keys, and
// what is merged first before what is merged then. The same key twice is a mistake, since one of them would not be read.
func (s *structure) field(n *yaml.Node, key string) *yaml.Node {
	n = followed(n)
	q := question{n, key}
	if value, ok := s.asked[q]; ok || n == nil {
		return value
	}
	s.asked[q] = nil // should what is merged lead back here
	var own, merged *yaml.Node
	switch n.Kind {
	case yaml.SequenceNode: // of what is merged
		for _, element := range n.Content {
			if own = s.field(element, key); own != nil {
				break
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			switch name := n.Content[i]; {
			case name.Value == key && own != nil:
				s.mistake(Place{s.name, name.Line}, "%s is already set in line %d", key, own.Line)
			case name.Value == key:
				own = n.Content[i+1]
			case name.Value == "<<" && merged == nil:
				merged = s.field(n.Content[i+1], key)
			}
		}
	}
	if own == nil {
		own = merged
	}
	s.asked[q] = own
	return own
}
