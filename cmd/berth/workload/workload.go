// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package workload finds the images that Kubernetes manifests and lists need, and the places that name them.
//
// A manifest is a mapping with a kind, as YAML or JSON, one of any number in a file. Its images are found by structure, so that
// kinds nobody has heard of are understood too: wherever containers, initContainers or ephemeralContainers is a list, the image
// of each element, and wherever volumes is, the image.reference of each. The output of `kubeadm config images list` in any of its
// formats is understood, and plain lists: a reference on each line, in quotes or not, with empty lines and comments after #.
//
// What is not found: images in fields of other names, and in text inside of text, such as a manifest in a ConfigMap. A field named
// image anywhere else is noted ([Found.Elsewhere]): only the operator of that kind knows what it is for.
//
// Nothing is passed over without a word. What cannot be read or understood is a mistake with file and line, and so are a template
// that was not rendered, and input without any image.
package workload

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/resolver"
)

// Stdin is the path that stands for standard input.
const Stdin = "-"

// StdinName is what errors call it.
const StdinName = "standard input"

// Place is where an image is named.
type Place struct {
	// File is the path as it was given, or found below a directory that was; "standard input" for that.
	File string
	// Line counts from 1.
	Line int
}

// String returns file:line.
func (p Place) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Image is one image, however often and in whatever spelling it is named.
type Image struct {
	// Ref is the reference as it is written in the first place.
	Ref string
	// Named is Ref as [resolver.ParseNamed] returns it: it tells one image from another.
	Named reference.Named
	// Places are in the order in which they were read; there is at least one.
	Places []Place
}

// Found is what was found.
type Found struct {
	// Images are in the order of their first places.
	Images []Image
	// LeftAlone are the files of directories that were not read, since their names do not say that they hold images.
	LeftAlone []string
	// Elsewhere are what may be images in fields of that name that are not in a container, one for each place.
	Elsewhere []Image
}

// Read finds the images of files and directories, in the order given. [Stdin], once, stands for stdin. A file that is named is
// read whatever its name is; of a directory see [Found.LeftAlone]. Every mistake is reported at once, each on a line of its own.
func Read(paths []string, stdin io.Reader) (Found, error) {
	r := reader{stdin: stdin, index: map[string]int{}}
	for _, path := range paths {
		r.path(path)
	}
	if len(r.errs) == 0 && len(r.found.Images) == 0 {
		r.errs = append(r.errs, fmt.Errorf("find images in %s: there are none", strings.Join(named(paths), ", ")))
	}
	return r.found, errors.Join(r.errs...)
}

// named are paths as errors name them.
func named(paths []string) []string {
	names := slices.Clone(paths)
	if i := slices.Index(names, Stdin); i >= 0 {
		names[i] = StdinName
	}
	return names
}

// reader gathers what is found.
type reader struct {
	stdin io.Reader // nil once it was read
	found Found
	index map[string]int // of found.Images, by Named
	errs  []error
}

// maxRef is the length in bytes above which a text is no reference, and is not quoted: a name has 255, a tag 128, and
// the longest digest fewer than either.
const maxRef = 1024

// add adds one place of an image.
func (r *reader) add(ref string, place Place) error {
	if len(ref) > maxRef {
		return fmt.Errorf("%s: is longer than any reference", place)
	}
	if hint := noReference(ref); hint != "" {
		return fmt.Errorf("%s: image %q %s", place, ref, hint)
	}
	named, err := resolver.ParseNamed(ref)
	if err != nil {
		return fmt.Errorf("%s: %w", place, err)
	}
	i, ok := r.index[named.String()]
	if !ok {
		i = len(r.found.Images)
		r.index[named.String()] = i
		r.found.Images = append(r.found.Images, Image{Ref: ref, Named: named})
	}
	if places := r.found.Images[i].Places; len(places) == 0 || places[len(places)-1] != place { // merged into several
		r.found.Images[i].Places = append(places, place)
	}
	return nil
}

// noReference says what to do about a text that is not a reference yet, or more than one; "" if it may be one.
func noReference(ref string) string {
	switch {
	case digest.Digest(ref).Validate() == nil:
		return "is an id or a digest, which no registry can be asked for; name the image too"
	case strings.ContainsAny(ref, "*?!|"):
		return "is a pattern, as policies have them; leave that manifest out"
	case strings.Contains(ref, "://"):
		return "has a scheme, which is no part of a reference; leave it out"
	case strings.Contains(ref, "{{"):
		return "is a template; " + renderChart
	case strings.Contains(ref, "${"), strings.Contains(ref, "$("):
		return "has a variable; put its value in first, as envsubst or clusterctl do"
	}
	return ""
}

// renderChart is what to do about a chart.
const renderChart = "render the chart with `helm template`, and give what it prints to -f -"
