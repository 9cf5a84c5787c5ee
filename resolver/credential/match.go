// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"errors"
	"maps"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
)

// pickAuth returns the credential of the most specific pattern that matches image: kubelet goes through them in the reverse
// of their order as texts, so that a longer one comes before a shorter and a star after a letter
// (k8s.io/kubernetes, pkg/credentialprovider/keyring.go). Kubelet tries the next when one is refused; here the first counts.
func pickAuth(auth map[string]Credential, image string) Credential {
	patterns := slices.Sorted(maps.Keys(auth))
	slices.Reverse(patterns)
	for _, pattern := range patterns {
		if matchImage(pattern, image) {
			return auth[pattern]
		}
	}
	return Credential{}
}

// matchImage reports whether a pattern of kubelet's matches an image: both have as many parts of a domain, of which each
// matches, stars standing for anything in one part; the same port; and the path of the pattern begins that of the image
// (URLsMatch of k8s.io/kubernetes, pkg/credentialprovider/keyring.go). A scheme of the pattern does not count.
func matchImage(pattern, image string) bool {
	p, err := parsePattern(pattern)
	if err != nil {
		return false
	}
	target, err := url.Parse("https://" + image)
	if err != nil {
		return false
	}
	if p.Port() != target.Port() || !strings.HasPrefix(target.Path, patternPath(p)) {
		return false
	}
	globs, parts := strings.Split(p.Hostname(), "."), strings.Split(target.Hostname(), ".")
	if len(globs) != len(parts) {
		return false
	}
	for i, glob := range globs {
		if ok, err := path.Match(glob, parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func parsePattern(pattern string) (*url.URL, error) {
	if !strings.HasPrefix(pattern, "https://") && !strings.HasPrefix(pattern, "http://") {
		pattern = "https://" + pattern
	}
	return url.Parse(pattern)
}

// patternPath is the path of a pattern, without the version of an old API.
func patternPath(p *url.URL) string {
	if strings.HasPrefix(p.Path, "/v1/") || strings.HasPrefix(p.Path, "/v2/") {
		return strings.TrimSuffix(p.Path[3:], "/")
	}
	return strings.TrimSuffix(p.Path, "/")
}

// checkPattern reports what is wrong with a pattern.
func checkPattern(pattern string) error {
	p, err := parsePattern(pattern)
	if err != nil || p.Host == "" {
		return errors.New("is not host[:port][/path]")
	}
	if _, err := path.Match(p.Hostname(), ""); err != nil {
		return errors.New("has a pattern for its host that is not one")
	}
	if p.Port() != "" {
		if _, err := net.LookupPort("tcp", p.Port()); err != nil {
			return errors.New("has a port that is none")
		}
	}
	return nil
}
