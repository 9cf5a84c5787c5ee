// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
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
	named, err := parseNamed(ref)
	if err != nil {
		// One %w: of a second, clients of gRPC print the kind of error once more, on a line of its own.
		return nil, fmt.Errorf("parse reference %q: %s: %w", ref, err.Error(), errdefs.ErrInvalidArgument)
	}
	return named, nil
}

func parseNamed(ref string) (reference.Named, error) {
	if named, ok := parsePlain(ref); ok {
		return named, nil
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, explainTag(ref, err)
	}
	// In lower case a host without dot or port would be a path of Docker Hub, so it stays as it is.
	if host := hostName(reference.Domain(named)); host != reference.Domain(named) && isHost(host) {
		if named, err = reference.ParseNormalizedNamed(host + named.String()[len(reference.Domain(named)):]); err != nil {
			return nil, err
		}
	}
	if err := checkPort(reference.Domain(named)); err != nil {
		return nil, err
	}
	return reference.TagNameOnly(named), nil
}

// maxTag is how long a tag may be, in the grammar of references.
const maxTag = 128

// explainTag is err, or the limit, if the length of its tag keeps ref from being a reference.
func explainTag(ref string, err error) error {
	name, _, _ := strings.Cut(ref, "@")
	colon := strings.LastIndexByte(name, ':')
	end := colon + 1 + maxTag
	if colon < 0 || len(name) <= end || strings.Contains(name[colon:], "/") {
		return err
	}
	if _, otherwise := reference.ParseNormalizedNamed(name[:end] + ref[len(name):]); otherwise != nil {
		return err
	}
	return fmt.Errorf("tag must not be more than %d characters", maxTag)
}

// Prefix is a normalised beginning of image names: host[:port][/path], without scheme, tag or digest.
type Prefix string

// ParseDomain parses the domain of a registry as people write it: a [Prefix], before which a scheme is dropped.
func ParseDomain(s string) (Prefix, error) {
	if scheme, rest, ok := strings.Cut(s, "://"); ok && scheme != "" && !strings.ContainsAny(scheme, "/:@") {
		s = rest
	}
	return ParsePrefix(s)
}

// ParsePrefix parses a prefix as people write it. Trailing slashes are dropped, and the host is brought to one form
// as by [ParseNamed].
func ParsePrefix(s string) (Prefix, error) {
	if hasUserinfo(s) {
		return "", errUserinfo
	}
	if strings.Contains(s, "://") {
		return "", errors.New("has a scheme; want host[:port][/path]")
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
	// A host alone is no name: try it as the host of one. An underscore makes a component of a path of it.
	if named, err := reference.WithName(host + "/x"); err != nil || reference.Domain(named) != host {
		return "", fmt.Errorf("begins with %q, which is not a host", host)
	}
	switch {
	case path == "":
		return Prefix(host), nil
	case strings.ContainsAny(path, ":@"):
		return "", errors.New("has a tag or a digest; want host[:port][/path]")
	case path != strings.ToLower(path):
		return "", errors.New("has upper-case letters in its path; a repository name is lower case")
	case !isPath(path):
		return "", errors.New("is not a repository prefix; want host[:port][/path]")
	}
	return Prefix(host + "/" + path), nil
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

// errUserinfo is about a value that is not to be quoted: what stands before the @ may be a password.
var errUserinfo = errors.New("has an @ in its host; a user and a password belong in username and password_file of the registry, a digest after host/path")

// hasUserinfo reports whether s has an @ in its host, with or without a scheme before it. A password may have a slash;
// what stands after a colon and that is one, unless a digest follows the @.
func hasUserinfo(s string) bool {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	host, path, _ := strings.Cut(s, "/")
	_, after, at := strings.Cut(path, "@")
	return strings.Contains(host, "@") || strings.Contains(host, ":") && at && !strings.HasPrefix(after, "sha")
}

// hostName brings a host to its one form. The port of HTTPS is dropped: with it a rule for the host, a denial of all
// others, would not match. For the same reason an address of IPv6 is written in one way.
func hostName(host string) string {
	host = oneIPv6(strings.ToLower(host))
	if bare, ok := strings.CutSuffix(host, ":443"); ok && isHost(bare) {
		host = bare
	}
	if alias, ok := dockerHosts[host]; ok {
		return alias
	}
	return host
}

// oneIPv6 writes the address of [address] or [address]:port as RFC 5952 has it, but for one of IPv4 in IPv6, which the
// reference grammar does not have with dots. Any other host is left as it is.
func oneIPv6(host string) string {
	inside, ok := strings.CutPrefix(host, "[")
	text, port, closed := strings.Cut(inside, "]")
	if !ok || !closed {
		return host
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return host
	}
	text = addr.String()
	if addr.Is4In6() {
		b := addr.As16()
		text = fmt.Sprintf("::ffff:%x:%x", binary.BigEndian.Uint16(b[12:]), binary.BigEndian.Uint16(b[14:]))
	}
	return "[" + text + "]" + port
}

// isHost tells a host from the first part of a Docker Hub path, by the rule of the reference grammar.
func isHost(s string) bool {
	return strings.ContainsAny(s, ".:") || s == "localhost"
}

func notHost(host string) error {
	return fmt.Errorf("begins with %q, which is no host: want a name with a dot or a port, an address, or localhost (Docker Hub is docker.io)", host)
}

// checkPort reports a port outside of 1 to 65535, and one with a leading zero: the reference grammar lets both
// through, and the second would be another way to write a host that a rule names.
func checkPort(host string) error {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.HasSuffix(host, "]") {
		return nil
	}
	port := host[i+1:]
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port || n == 0 {
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
