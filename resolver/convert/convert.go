// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package convert turns the files in which others have registries into a TOML file of ours: a cloud-config, and the
// registries.yaml of k3s and RKE2.
//
// The result means the same, with secrets moved to files of their own; what cannot be said in it is reported with its line.
package convert

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-edge/berth/resolver/cloudconfig"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/k3s"
	"github.com/berth-edge/berth/resolver/strict"
)

// SecretsDir is where the TOML file looks for secrets that were not written to another place.
const SecretsDir = "/etc/berth/secrets"

// A Secret is a password that the TOML file names a file for.
type Secret struct {
	// Path is where it belongs.
	Path  string
	Value credential.Secret
	// Origin is the file, line and key that it came from.
	Origin string
}

// Result is a converted file.
type Result struct {
	// TOML is the file of ours. It holds no secret.
	TOML []byte
	// Secrets are the passwords, in the order of the registries.
	Secrets []Secret
	// Lost are about what was not carried over, or was read otherwise than it is written.
	Lost strict.Problems
	// Warnings are about what the result does, as `berth config check` would have them.
	Warnings []string
}

// Convert converts the file whose content is text. secrets is the directory that password_file names; if it is to be filled
// by hand, written is false, and comments say with what. An error is [strict.Problems], each with its line.
func Convert(file string, text []byte, secrets string, written bool) (Result, error) {
	stanza, lost, err := translate(file, text)
	if err != nil {
		return Result{}, err
	}
	present, absent := withoutAbsent(stanza)
	loaded, err := config.Check(present, nil)
	if err != nil {
		return Result{}, err
	}
	slices.SortStableFunc(lost, func(a, b strict.Problem) int { return a.Line - b.Line })
	result := Result{Lost: lost, Warnings: append(loaded.Warnings, absent...)}
	w := writer{stanza: stanza, dir: secrets, written: written, result: &result, taken: map[string]bool{}}
	result.TOML = w.file(file)
	return result, nil
}

// translate returns the file in our schema.
func translate(file string, text []byte) (s strict.Stanza, lost strict.Problems, err error) {
	var problems strict.Problems
	switch keys := strict.TopKeys(text); {
	case cloudconfig.Is(keys):
		s, lost = cloudconfig.Read(file, text, &problems)
	case k3s.Is(keys):
		s, lost = k3s.Read(file, text, &problems)
	default:
		strict.ParseYAML(file, text, func(string) bool { return false }, &problems)
		if len(problems) == 0 {
			problems = append(problems, strict.Problem{File: file, Text: "is neither a cloud-config with stylus: nor a registries.yaml with mirrors: or configs:"})
		}
		return s, nil, problems.Err()
	}
	if len(problems) > 0 {
		_, err = config.Check(s, problems)
	}
	return s, lost, err
}

// withoutAbsent returns s without the files of certificates and keys that are not on this machine, which need not be the
// node, and a warning of each: the rest can be checked.
func withoutAbsent(s strict.Stanza) (present strict.Stanza, warnings []string) {
	values, _ := s.Values["registries"].([]any)
	registries := slices.Clone(values)
	for i, v := range registries {
		r := maps.Clone(v.(map[string]any))
		certificates, _ := r["certificates"].([]any)
		certificates = slices.DeleteFunc(slices.Clone(certificates), func(c any) bool {
			text, _ := c.(string)
			return isAbsent(text, &warnings)
		})
		if len(certificates) < lenOf(r["certificates"]) {
			r["certificates"] = certificates
		}
		cert, _ := r["client_certificate"].(string)
		key, _ := r["client_key"].(string)
		noCert, noKey := isAbsent(cert, &warnings), isAbsent(key, &warnings)
		if (noCert || noKey) && cert != "" && key != "" {
			delete(r, "client_certificate")
			delete(r, "client_key")
		}
		registries[i] = r
	}
	s.Values = maps.Clone(s.Values)
	s.Values["registries"] = registries
	return s, warnings
}

func lenOf(v any) int {
	list, _ := v.([]any)
	return len(list)
}

// isAbsent reports whether text is the path of a file that does not exist, after a warning.
func isAbsent(text string, warnings *[]string) bool {
	if !filepath.IsAbs(text) {
		return false
	}
	if _, err := os.Stat(text); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	*warnings = append(*warnings, "certificates and keys: "+text+" is not on this machine, so it is not checked")
	return true
}

// passwordOf returns the password of a registry, and the key it stands in; "" if there is none.
func passwordOf(registry map[string]any) (key string, password credential.Secret) {
	if text, ok := registry["password"].(string); ok {
		return "password", credential.Secret(text)
	}
	if text, ok := registry["encoded_password"].(string); ok {
		decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err == nil { // else it was refused before
			return "encoded_password", credential.Secret(strings.TrimSuffix(string(decoded), "\n"))
		}
	}
	return "", ""
}
