// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"slices"

	"github.com/berth-edge/berth/resolver/cloudconfig"
	"github.com/berth-edge/berth/resolver/k3s"
	"github.com/berth-edge/berth/resolver/strict"
)

// Check reads a stanza that was translated from a file of another kind, as the only place of configuration. found is what was
// found wrong with that file, nil for nothing. An error is [strict.Problems].
func Check(s strict.Stanza, found strict.Problems) (Loaded, error) {
	l := newLoader()
	l.problems = slices.Clone(found)
	l.table(s.Read(&l.problems))
	return l.finish()
}

// parse returns the table of a file of ours: a cloud-config if its name ends in .yaml or .yml, else TOML.
func (l *loader) parse(path string, text []byte) *strict.Table {
	if isYAML(path) {
		if keys := strict.TopKeys(text); k3s.Is(keys) && !cloudconfig.Is(keys) {
			return l.refuse(path, "this is a k3s registries.yaml; run `berth config convert "+path+"`, and use what it prints")
		}
		stanza, warnings := cloudconfig.Read(path, text, &l.problems)
		for _, w := range warnings {
			l.warn("%s", w)
		}
		return stanza.Read(&l.problems)
	}
	good := len(l.problems)
	t := strict.ParseFile(path, text, &l.problems)
	if len(l.problems) == good {
		return t
	}
	switch keys := strict.TopKeys(text); {
	case k3s.Is(keys):
		l.problems = l.problems[:good]
		return l.refuse(path, "this is a k3s registries.yaml and not TOML; run `berth config convert "+path+"`, and use what it prints")
	case cloudconfig.Is(keys):
		l.problems = l.problems[:good]
		return l.refuse(path, "this is a cloud-config and not TOML; give it a name that ends in .yaml, or run `berth config convert "+path+"`")
	}
	return t
}

func isYAML(path string) bool {
	ext := filepath.Ext(path)
	return ext == ".yaml" || ext == ".yml"
}

// refuse notes what is wrong with a file as a whole, which then has no keys.
func (l *loader) refuse(path, text string) *strict.Table {
	l.problems = append(l.problems, strict.Problem{File: path, Text: text})
	return strict.Stanza{Name: path}.Read(&l.problems)
}
