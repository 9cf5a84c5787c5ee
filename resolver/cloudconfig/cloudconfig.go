// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package cloudconfig reads the registries of a cloud-config, the file that an installer image is configured with.
//
// Of the whole file only these keys matter; everything else belongs to others and is not looked at:
//
//	#cloud-config
//	stylus:
//	  registryCredentials: {domain, username, password, encodedPassword, insecure, certificates}
//	  externalRegistries:
//	    registries: [{domain, username, password, encodedPassword, repositoryName, certificates, insecure}]
//	    registryMappingRules: {prefix: prefix}
//
// They are translated into the schema of a TOML file, see [Read], and checked with it by package config: what is wrong with
// a domain or a rule is the same in both. Shapes that published examples have, though the reference does not, are read with a
// warning: see [reader.place] and [reader.certificates]. An empty text is an absent one.
package cloudconfig

import (
	"slices"
	"strings"

	"github.com/berth-edge/berth/resolver/strict"
)

const (
	section = "stylus"
	single  = "registryCredentials"
	several = "externalRegistries"
	mapping = "registryMappingRules"
)

// Is reports whether a file whose top keys these are has the registries of a cloud-config, or a place for them.
func Is(topKeys []string) bool {
	return slices.ContainsFunc(topKeys, func(key string) bool { return key == section || isOurs(key) })
}

// isOurs reports whether the value at a path below the section, or beside it, is for us.
func isOurs(path string) bool {
	key, _, _ := strings.Cut(path, ".")
	key, _, _ = strings.Cut(key, "[")
	return key == single || key == several || key == mapping
}

// Read returns the registries and rules of a cloud-config whose content is text, in the schema of a file of ours, and what
// is accepted and better written otherwise. The names of keys are those of the cloud-config. What is wrong with the file
// itself is added to problems; its values are for package config to check.
func Read(file string, text []byte, problems *strict.Problems) (s strict.Stanza, warnings strict.Problems) {
	found := len(*problems)
	top := strict.ParseYAML(file, text, func(path string) bool {
		return path == section || isOurs(strings.TrimPrefix(path, section+"."))
	}, problems)
	r := reader{stanza: strict.Stanza{Name: file, Lines: map[string]int{}, Names: map[string]string{}}}
	places := []*strict.Table{top}
	if !top.IsNull(section) {
		places = append(places, top.Table(section))
	}
	for _, t := range places {
		misspelt(t)
	}
	// The one that is the target for * is the first registry, wherever it stands.
	for _, t := range places {
		r.single(t)
	}
	for _, t := range places {
		r.place(t)
	}
	r.targetOfAll()
	if len(r.registries)+len(r.rules) == 0 && len(*problems) == found && len(top.Keys()) > 0 {
		r.warnings = append(r.warnings, top.About("", "has neither %s.%s nor %s.%s with a registry or a rule; nothing is configured from it", section, single, section, several))
	}
	r.stanza.Values = map[string]any{"registries": r.registries, "rules": r.rules}
	return r.stanza, r.warnings
}

// misspelt notes keys that are likely meant to be ours: left to others, they would leave every pull to public registries.
func misspelt(t *strict.Table) {
	known := []string{single, several, mapping}
	if isTop(t) {
		known = append(known, section)
	}
	for _, key := range t.Keys() {
		if slices.Contains(known, key) {
			continue
		}
		for _, k := range known {
			if isNear(key, k) {
				t.Problem(key, "unknown key; did you mean %q?", k)
			}
		}
		if strings.HasPrefix(key, section+".") {
			t.Problem(key, "is one key with a dot in it; write %s: and below it what follows the dot, indented", section)
		}
	}
}

// isNear reports whether key is a misspelling of known: another case, two letters, or a singular.
func isNear(key, known string) bool {
	stem := known[:max(len(known)-3, len(section))]
	return strict.Similar(key, known) || len(key) >= len(stem) && strings.EqualFold(key[:len(stem)], stem) && !strings.Contains(key, ".")
}
