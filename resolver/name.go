// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"strings"

	"github.com/distribution/reference"
)

// repository is a name that is known to be one, and tagged one with a tag that is known to be one. Package reference makes its own
// values by matching regular expressions, which cost ten times what finding a rule does.
type repository struct {
	name string
	host int // how long the host is
}

type tagged struct {
	repository
	tag string
}

var (
	_ reference.Named       = repository{}
	_ reference.NamedTagged = tagged{}
)

func (r repository) Name() string   { return r.name }
func (r repository) String() string { return r.name }
func (r repository) Domain() string { return r.name[:r.host] }
func (r repository) Path() string   { return r.name[r.host+1:] }

func (t tagged) Tag() string    { return t.tag }
func (t tagged) String() string { return t.name + ":" + t.tag }

// parsePlain parses host/path:tag whose host is in its one form, which is how CRI and ctr ask. Whatever else is right,
// and whatever is wrong, is left to package reference: see [parseNamed].
func parsePlain(ref string) (reference.Named, bool) {
	host, path, _ := strings.Cut(ref, "/")
	colon := strings.LastIndexByte(path, ':')
	if colon < 0 || !isPlainHost(host) || !isPath(path[:colon]) || !isTagText(path[colon+1:]) {
		return nil, false
	}
	if host == "docker.io" && !strings.Contains(path[:colon], "/") {
		return nil, false // library/ is missing
	}
	return tagged{repository{ref[:len(host)+1+colon], len(host)}, path[colon+1:]}, true
}

// isTagText reports whether s is a tag by the grammar of package reference: letters, digits and underscores, behind the first of
// which dots and dashes are, too.
func isTagText(s string) bool {
	for i := range len(s) {
		letter := isAlphanumeric(s[i]) || 'A' <= s[i] && s[i] <= 'Z' || s[i] == '_'
		if !letter && (i == 0 || s[i] != '.' && s[i] != '-') {
			return false
		}
	}
	return s != "" && len(s) <= maxTag
}

// isPlainHost reports whether host is lower case, with a dot, with a port or none, and no other name of Docker Hub.
func isPlainHost(host string) bool {
	if hostName(host) != host || checkPort(host) != nil {
		return false
	}
	name := host
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		name = host[:i]
	}
	if !strings.Contains(name, ".") {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

func isLabel(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && (s[i] != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return s != ""
}

// isPath reports whether s is a path by the grammar of package reference: runs of a-z and 0-9, between two of them a
// slash, a dot, one or two underscores, or any number of dashes.
func isPath(s string) bool {
	if len(s) > reference.RepositoryNameTotalLengthMax {
		return false
	}
	for {
		run := 0
		for run < len(s) && isAlphanumeric(s[run]) {
			run++
		}
		if run == 0 || run == len(s) {
			return run > 0
		}
		s = s[run:]
		s = s[separator(s):]
	}
}

// separator returns the length of the separator that s begins with, 0 if there is none.
func separator(s string) int {
	switch s[0] {
	case '/', '.':
		return 1
	case '_':
		if len(s) > 1 && s[1] == '_' {
			return 2
		}
		return 1
	}
	return len(s) - len(strings.TrimLeft(s, "-"))
}

func isAlphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
