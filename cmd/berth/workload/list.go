// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// isList tells a list of references from manifests by its first line with content: a manifest begins with a key, with the
// start of a document, or as JSON does. The colon of a reference has no space after it.
func isList(text []byte) bool {
	for line := range bytes.Lines(text) {
		line := withoutComment(string(line))
		if line == "" {
			continue
		}
		return !strings.HasPrefix(line, "---") && !strings.ContainsAny(line[:1], `%{['-`) &&
			!strings.HasSuffix(line, ":") && !strings.Contains(line, ": ")
	}
	return true
}

// list reads a reference from each line.
func (r *reader) list(name string, text []byte) (errs []error) {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		ref := withoutComment(string(line))
		if text, err := strconv.Unquote(ref); err == nil { // as jq prints it without -r
			ref = text
		}
		if ref == "" {
			continue
		}
		place := Place{name, n}
		if strings.ContainsAny(ref, " \t") {
			errs = append(errs, fmt.Errorf("%s: want one reference on a line, and a comment after #", place))
			continue
		}
		if err := r.add(ref, place); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// logged begins a line of the log of Kubernetes' programs: kubeadm warns so beside its list if it does not find out the newest version.
var logged = regexp.MustCompile(`^[IWEF][0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2}\.`)

// withoutComment returns a line without what follows a # that begins it or has space before it. A line of a log is a comment.
func withoutComment(line string) string {
	if logged.MatchString(line) {
		return ""
	}
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			line = line[:i]
			break
		}
	}
	return strings.TrimSpace(line)
}
