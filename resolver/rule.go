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

// Source, as an element of [Rule.To], is the registry that the reference itself names.
const Source = "source"

// Path says what of a reference follows the target that it is rewritten to.
type Path string

const (
	// PathRest replaces the part that the rule matched, the host for "*"; what remains follows.
	PathRest Path = "rest"
	// PathFull puts the whole normalised name after the target.
	PathFull Path = "full"
	// PathBase keeps only the last component of the name.
	PathBase Path = "base"
)

// A Rule says where the references that it matches are pulled from instead.
type Rule struct {
	// From is what the rule matches: host, host/path, host/path:tag, host/path@digest, *.host, or *.
	From string
	// To are the targets in their order: prefixes, or [Source].
	To []string
	// Path is how a name is put after a target. Empty is [PathFull] for "*" and [PathRest] for any other.
	Path Path
	// Deny refuses the pull. It excludes To; Path has no effect then.
	Deny bool
	// PastBundles has the targets asked even where a bundle holds the image (bundle = false).
	PastBundles bool
}

// ParseRule checks r and returns it normalised. Every mistake is reported, joined; each begins with the key
// of r that it is about.
func ParseRule(r Rule) (Rule, error) {
	var mistakes []error
	from, whole, err := parseFrom(r.From)
	if err != nil {
		mistakes = append(mistakes, &FieldError{"from", r.From, err})
	}
	r.From = from

	switch r.Path {
	case "":
		r.Path = PathRest
		if r.From == "*" {
			r.Path = PathFull
		}
	case PathRest, PathFull, PathBase:
	default:
		mistakes = append(mistakes, &FieldError{"path", string(r.Path), errors.New(`is not known; want "rest", "full" or "base"`)})
	}

	if r.Deny && len(r.To) > 0 {
		mistakes = append(mistakes, &FieldError{"deny", "", errors.New("excludes to; remove one of them")})
	}
	if !r.Deny && len(r.To) == 0 {
		mistakes = append(mistakes, &FieldError{"to", "", errors.New(`is empty; want one or more targets, "source", or deny = true`)})
	}
	to := make([]string, 0, len(r.To))
	for _, t := range r.To {
		if t == Source {
			to = append(to, t)
			continue
		}
		p, err := ParsePrefix(t)
		if err == nil && whole && r.Path == PathRest && p.Host() == string(p) {
			err = errors.New("is a host alone; a rule for one tag or digest wants the whole repository")
		}
		if err != nil {
			mistakes = append(mistakes, &FieldError{"to", t, err})
			continue
		}
		to = append(to, string(p))
	}
	r.To = to
	return r, errors.Join(mistakes...)
}

// parseFrom returns s normalised, and whether it names one tag or one digest.
func parseFrom(s string) (from string, whole bool, err error) {
	switch {
	case s == "":
		return "", false, errors.New("is empty; want host, host/path, host/path:tag, host/path@digest, *.host, or *")
	case s == "*":
		return s, false, nil
	case hasUserinfo(s):
		return "", false, errUserinfo
	case strings.Contains(s, "://"):
		return "", false, errors.New("has a scheme; want host, host/path, *.host, or *")
	case strings.HasPrefix(s, "*."):
		host := strings.TrimRight(s[len("*."):], "/")
		if strings.Contains(host, "/") {
			return "", false, errors.New("has a path after *.host; want *.host alone")
		}
		if strings.Contains(host, "*") || !strings.Contains(host, ".") {
			return "", false, errors.New("matches too much or too little; want *. and a domain of two labels or more, such as *.gcr.io")
		}
		if _, err := ParsePrefix(host); err != nil {
			return "", false, err
		}
		// The port of HTTPS is dropped as from any host; Docker Hub's other names are no sub-domains.
		return "*." + strings.TrimSuffix(strings.ToLower(host), ":443"), false, nil
	case strings.Contains(s, "*"):
		return "", false, errors.New("has * in a place where it is not supported; want *.host or *")
	}

	host, rest, _ := strings.Cut(s, "/")
	if !strings.ContainsAny(rest, ":@") {
		p, err := ParsePrefix(s)
		return string(p), false, err
	}
	if !isHost(host) {
		return "", false, notHost(host)
	}
	named, err := parseNamed(s)
	if err != nil {
		return "", false, fmt.Errorf("is not host/path:tag or host/path@digest: %w", err)
	}
	_, tagged := named.(reference.Tagged)
	_, digested := named.(reference.Digested)
	if tagged && digested {
		return "", false, errors.New("has a tag and a digest; with a digest the tag does not match, so remove it")
	}
	return named.String(), true, nil
}

// Rewrite returns what to pull in place of named, which r matches, from the target to, an element of r.To.
// Tag and digest are kept.
func (r Rule) Rewrite(named reference.Named, to string) (reference.Named, error) {
	if to == Source {
		return named, nil
	}
	host, path, _ := strings.Cut(to, "/")
	if follows := r.follows(named); path == "" {
		path = follows
	} else if follows != "" {
		path += "/" + follows
	}
	// Package reference has this limit too, but its error does not say by which rule or how far it is exceeded.
	if n := len(path); n > reference.RepositoryNameTotalLengthMax {
		return nil, fmt.Errorf("rewrite %s by rule %q: rewritten repository is %d bytes, limit %d: %w",
			named, r.From, n, reference.RepositoryNameTotalLengthMax, errdefs.ErrInvalidArgument)
	}
	if path == "" {
		return nil, fmt.Errorf("rewrite %s by rule %q: nothing of the name is left to follow %q; give the target a path: %w",
			named, r.From, to, errdefs.ErrInvalidArgument)
	}
	if !isPath(path) {
		return nil, fmt.Errorf("rewrite %s by rule %q: %q is not a repository, since a path cannot hold the host %q; write a rule for that host, or use path = \"rest\": %w",
			named, r.From, host+"/"+path, reference.Domain(named), errdefs.ErrInvalidArgument)
	}
	return withVersion(repository{host + "/" + path, len(host)}, named)
}

// withVersion gives a repository the tag and the digest of named.
func withVersion(name repository, named reference.Named) (reference.Named, error) {
	var version reference.Named = name
	if t, ok := named.(reference.Tagged); ok {
		version = tagged{name, t.Tag()}
	}
	if d, ok := named.(reference.Digested); ok {
		return reference.WithDigest(version, d.Digest())
	}
	return version, nil
}

// follows returns the part of the name that is put after a target.
func (r Rule) follows(named reference.Named) string {
	path := reference.Path(named)
	switch {
	case r.Path == PathFull:
		return named.Name()
	case r.Path == PathBase:
		return path[strings.LastIndexByte(path, '/')+1:]
	case strings.HasPrefix(r.From, "*"):
		return path
	}
	_, matched, _ := strings.Cut(r.From, "/")
	if len(matched) >= len(path) {
		return "" // one repository, tag or digest: the target is the whole repository
	}
	return strings.TrimPrefix(path[len(matched):], "/")
}

// FieldError is a mistake in one key of a [Rule] or a [Registry].
type FieldError struct {
	// Key is the key's name in a configuration file.
	Key string
	// Value is what was written; "" where there is none or where it is secret.
	Value string
	// Err says what is wrong with the value and what is accepted; it reads on after "key value".
	Err error
}

func (e *FieldError) Error() string { return e.Key + " " + e.Text() }

// Text is the error without its key. The value is quoted, unless it may hold a password.
func (e *FieldError) Text() string {
	if e.Value == "" || errors.Is(e.Err, errUserinfo) {
		return e.Err.Error()
	}
	return fmt.Sprintf("%q %v", e.Value, e.Err)
}

func (e *FieldError) Unwrap() error { return e.Err }
