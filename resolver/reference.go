// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// dockerHosts are the names of Docker Hub; they are one host.
var dockerHosts = map[string]string{
	"index.docker.io":      "docker.io",
	"registry-1.docker.io": "docker.io",
}

// ParseNamed parses ref as containerd's CRI does, and brings its host to one form: lower case, and docker.io
// for each of Docker Hub's names. A reference with neither tag nor digest gets the tag "latest"; unlike CRI
// the tag of "name:tag@digest" is kept. Any error is an [errdefs.ErrInvalidArgument].
func ParseNamed(ref string) (reference.Named, error) {
	if ref == "" {
		return nil, fmt.Errorf("parse reference: empty: %w", errdefs.ErrInvalidArgument)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err == nil {
		if host := hostName(reference.Domain(named)); host != reference.Domain(named) {
			named, err = reference.ParseNormalizedNamed(host + named.String()[len(reference.Domain(named)):])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("parse reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	if err := checkPort(reference.Domain(named)); err != nil {
		return nil, fmt.Errorf("parse reference %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	return reference.TagNameOnly(named), nil
}

// Prefix is a normalised beginning of image names: host[:port][/path], without scheme, tag or digest.
type Prefix string

// ParsePrefix parses a prefix as people write it. A scheme and trailing slashes are dropped, and the host is
// brought to one form as by [ParseNamed].
func ParsePrefix(s string) (Prefix, error) {
	if i := strings.Index(s, "://"); i >= 0 {
		s = s[i+len("://"):]
	}
	s = strings.TrimRight(s, "/")
	if s == "" {
		return "", errors.New("is empty; want host[:port][/path]")
	}
	host, path, _ := strings.Cut(s, "/")
	host = hostName(host)
	if !isHost(host) {
		return "", notHost(host)
	}
	if err := checkPort(host); err != nil {
		return "", err
	}
	if path == "" {
		// A host alone is no name: try it as the host of one.
		if _, err := reference.WithName(host + "/x"); err != nil {
			return "", fmt.Errorf("%q is not a host", host)
		}
		return Prefix(host), nil
	}
	if strings.ContainsAny(path, ":@") {
		return "", errors.New("has a tag or a digest; want host[:port][/path]")
	}
	if path != strings.ToLower(path) {
		return "", errors.New("has upper-case letters in its path; a repository name is lower case")
	}
	named, err := reference.WithName(host + "/" + path)
	if err != nil {
		return "", errors.New("is not a repository prefix; want host[:port][/path]")
	}
	return Prefix(named.Name()), nil
}

// Host returns the host[:port] of p.
func (p Prefix) Host() string {
	host, _, _ := strings.Cut(string(p), "/")
	return host
}

// Contains reports whether name lies at p or below it. A match ends at a component: gcr.io/foo does not
// contain gcr.io/foobar, and host does not contain host:5000.
func (p Prefix) Contains(name string) bool {
	rest, ok := strings.CutPrefix(name, string(p))
	return ok && (rest == "" || rest[0] == '/')
}

func hostName(host string) string {
	host = strings.ToLower(host)
	if alias, ok := dockerHosts[host]; ok {
		return alias
	}
	return host
}

// isHost tells a host from the first part of a Docker Hub path, by the rule of the reference grammar.
func isHost(s string) bool {
	return strings.ContainsAny(s, ".:") || s == "localhost"
}

func notHost(host string) error {
	return fmt.Errorf("begins with %q, which is no host: want a name with a dot or a port, an address, or localhost (Docker Hub is docker.io)", host)
}

// checkPort reports a port outside of 1 to 65535, which the reference grammar lets through.
func checkPort(host string) error {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.HasSuffix(host, "]") {
		return nil
	}
	port, n := host[i+1:], 0
	for _, c := range port {
		if c < '0' || c > '9' || n > 65535 {
			return fmt.Errorf("port %q is not a number from 1 to 65535", port)
		}
		n = n*10 + int(c-'0')
	}
	if n < 1 || n > 65535 {
		return fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	return nil
}

// cutName returns the name without its last component, or "" when only the host is left.
func cutName(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ""
	}
	return name[:i]
}

// isDigest and isTag tell the from of a rule for one digest or one tag.
func isDigest(from string) bool { return strings.ContainsRune(from, '@') }
func isTag(from string) bool {
	return strings.LastIndexByte(from, ':') > strings.LastIndexByte(from, '/') && strings.ContainsRune(from, '/')
}
