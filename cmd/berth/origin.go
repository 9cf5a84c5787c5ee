// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/distribution/reference"

	"github.com/berth-edge/berth/loader"
	"github.com/berth-edge/berth/resolver"
)

// origin is where an image came from, an element of what `berth where --output json` prints: docs/schema/where.json.
type origin struct {
	Ref      string `json:"ref"`
	Name     string `json:"name"`
	Digest   string `json:"digest"`
	From     string `json:"from"`
	Source   string `json:"source"`
	PulledAs string `json:"pulled_as"`
	Rule     string `json:"rule"`
	PulledAt string `json:"pulled_at"`
	Bundle   string `json:"bundle"`
	LoadedAt string `json:"loaded_at"`
	Error    string `json:"error"`
}

// What an origin is from.
const (
	fromRegistry = "registry"
	fromBundle   = "bundle"
	fromUnknown  = "unknown"
)

// storedImages are the records of a namespace.
type storedImages []*imagesapi.Image

// find returns the origin of the image that ref names, or of the one with that id.
func (s storedImages) find(ref string) origin {
	for _, name := range namesOf(ref) {
		for _, image := range s {
			if image.GetName() == name {
				return s.origin(ref, image)
			}
		}
	}
	return origin{Ref: ref, Error: "is not there"}
}

// namesOf are the names under which an image may be recorded that is asked for by ref: CRI drops the tag of name:tag@digest.
func namesOf(ref string) []string {
	names := []string{ref}
	named, err := resolver.ParseNamed(ref)
	if err != nil {
		return names
	}
	names = append(names, named.String())
	if digested, ok := named.(reference.Digested); ok {
		names = append(names, named.Name()+"@"+digested.Digest().String())
	}
	return names
}

// all returns the origin of every image, sorted by name. CRI's further records of an image, by its id and by its digest, say
// nothing more and are left out.
func (s storedImages) all() []origin {
	tagged := map[string]bool{}
	for _, image := range s {
		if name, digest := splitDigest(image.GetName()); digest == "" {
			tagged[repository(name)+"@"+image.GetTarget().GetDigest()] = true
		}
	}
	origins := []origin{}
	for _, image := range s {
		name, digest := splitDigest(image.GetName())
		if isID(image.GetName()) || digest != "" && tagged[repository(name)+"@"+image.GetTarget().GetDigest()] {
			continue
		}
		origins = append(origins, s.origin(image.GetName(), image))
	}
	slices.SortFunc(origins, func(a, b origin) int { return strings.Compare(a.Name, b.Name) })
	return origins
}

// origin reads the labels of an image. The records that CRI adds for one have none of them: those of its image are read.
func (s storedImages) origin(ref string, image *imagesapi.Image) origin {
	from := image
	if !isNoted(image) {
		name, digest := splitDigest(image.GetName())
		for _, other := range s {
			same := other.GetTarget().GetDigest() == image.GetTarget().GetDigest() && isNoted(other)
			if same && (isID(image.GetName()) || digest != "" && repository(other.GetName()) == repository(name)) {
				from = other
				break
			}
		}
	}
	labels := from.GetLabels()
	o := origin{
		Ref: ref, Name: from.GetName(), Digest: image.GetTarget().GetDigest(), From: fromUnknown,
		Source: labels[resolver.LabelSource], PulledAs: labels[resolver.LabelPulledAs], Rule: labels[resolver.LabelRule],
		PulledAt: labels[resolver.LabelPulledAt], Bundle: labels[loader.BundleLabel], LoadedAt: labels[loader.LoadedLabel],
	}
	switch {
	case strings.HasPrefix(o.Source, "/"), o.Source == "" && o.Bundle != "": // the source of a bundle is its path
		o.From = fromBundle
	case o.Source != "":
		o.From = fromRegistry
	}
	return o
}

// isNoted reports whether it was noted on an image where it came from.
func isNoted(image *imagesapi.Image) bool {
	return image.GetLabels()[resolver.LabelSource] != "" || image.GetLabels()[loader.BundleLabel] != ""
}

// isID reports whether a record is CRI's of an image's id.
func isID(name string) bool {
	return strings.HasPrefix(name, "sha256:") && !strings.Contains(name, "/")
}

func splitDigest(name string) (rest, digest string) {
	rest, digest, _ = strings.Cut(name, "@")
	return rest, digest
}

// repository is a name without its tag and digest.
func repository(name string) string {
	name, _ = splitDigest(name)
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}
