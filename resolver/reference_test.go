// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-edge/berth/resolver"
)

const (
	sha256Hex = "0000000000000000000000000000000000000000000000000000000000000001"
	aDigest   = "sha256:" + sha256Hex
)

// B2, B3, B5, B13, B14, B15, B17, B21, B22: references as clients write them, in the one form by which rules are looked for.
func TestParseNamed(t *testing.T) {
	tag128, path255 := strings.Repeat("t", 128), strings.Repeat("p", 255)
	sha512 := "sha512:" + strings.Repeat("0", 128)
	for _, tt := range []struct{ name, in, want string }{
		{"short name", "nginx", "docker.io/library/nginx:latest"},
		{"docker.io, one component", "docker.io/nginx", "docker.io/library/nginx:latest"},
		{"docker.io, one component and tag", "docker.io/nginx:1", "docker.io/library/nginx:1"},
		{"index.docker.io", "index.docker.io/library/nginx:1", "docker.io/library/nginx:1"},
		{"index.docker.io, one component", "index.docker.io/nginx:1", "docker.io/library/nginx:1"},
		{"registry-1.docker.io", "registry-1.docker.io/a/b", "docker.io/a/b:latest"},
		{"alias in upper case", "Index.Docker.IO/nginx", "docker.io/library/nginx:latest"},
		{"upper-case host", "Registry.K8s.IO/pause:3.9", "registry.k8s.io/pause:3.9"},
		{"upper-case host and port", "Reg.Test:5000/a:1", "reg.test:5000/a:1"},
		{"upper-case localhost", "LOCALHOST/a:1", "localhost/a:1"},
		{"upper-case host without dot stays off Docker Hub", "MYHOST/a:1", "MYHOST/a:1"},
		{"upper-case host without dot, with port", "MYHOST:80/a:1", "myhost:80/a:1"},
		{"localhost", "localhost/a", "localhost/a:latest"},
		{"IPv4", "127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"},
		{"IPv6", "[::1]:5000/a:1", "[::1]:5000/a:1"},
		{"IPv6 without port", "[FE80::1]/a:1", "[fe80::1]/a:1"},
		{"IPv6 in full", "[0:0:0:0:0:0:0:1]:5000/a:1", "[::1]:5000/a:1"},
		{"IPv6 with zeros", "[2001:0DB8::00a:0]/a:1", "[2001:db8::a:0]/a:1"},
		{"IPv6, the longest run of zeros", "[1:0:0:2:0:0:0:3]:443/a:1", "[1:0:0:2::3]/a:1"},
		{"IPv4 in IPv6", "[0:0:0:0:0:FFFF:7f00:0001]:5000/a:1", "[::ffff:7f00:1]:5000/a:1"},
		{"no address in brackets", "[::1::2]:5000/a:1", "[::1::2]:5000/a:1"},
		{"tag of 128", "quay.io/a:" + tag128, "quay.io/a:" + tag128},
		{"upper-case tag", "quay.io/a:V1_x.Y-z", "quay.io/a:V1_x.Y-z"},
		{"path of 255", "quay.io/" + path255 + ":1", "quay.io/" + path255 + ":1"},
		{"separators", "quay.io/a-b--c_d__e.f:1", "quay.io/a-b--c_d__e.f:1"},
		{"digest", "quay.io/a@" + aDigest, "quay.io/a@" + aDigest},
		{"sha512", "quay.io/a@" + sha512, "quay.io/a@" + sha512},
		{"tag and digest", "quay.io/a:1@" + aDigest, "quay.io/a:1@" + aDigest},
		{"tag that looks like a digest", "quay.io/a:" + sha256Hex, "quay.io/a:" + sha256Hex},
		{"port of HTTPS", "Quay.IO:443/a:1", "quay.io/a:1"},
		{"port of HTTPS, address", "[::1]:443/a:1", "[::1]/a:1"},
		{"port of HTTPS, Docker Hub", "docker.io:443/nginx", "docker.io/library/nginx:latest"},
		{"port of HTTPS, host without dot stays off Docker Hub", "myhost:443/a:1", "myhost:443/a:1"},
		{"highest port", "reg.test:65535/a:1", "reg.test:65535/a:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			named, err := resolver.ParseNamed(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := named.String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			again, err := resolver.ParseNamed(named.String())
			if err != nil || again.String() != named.String() {
				t.Errorf("parsed again: got %v, %v, want %s", again, err, named)
			}
		})
	}
}

// SEC-37, B1, B4, B7, B8, B13, B14, B18: nothing but the plain grammar passes, so that no reference steers a pull out of its target.
func TestParseNamedRefuses(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "parse reference: empty"},
		{"upper-case repository", "HOST/Repo:Tag", "repository name (Repo) must be lowercase"},
		{"upper-case component", "quay.io/A/b:1", "repository name (A/b) must be lowercase"},
		{"port 0", "reg.test:0/a", `port "0" is not a number from 1 to 65535`},
		{"port too high", "reg.test:70000/a", `port "70000" is not a number from 1 to 65535`},
		{"port far too high", "reg.test:99999999999999999999/a", "is not a number from 1 to 65535"},
		{"port with leading zero", "reg.test:0443/a", `port "0443" is not a number from 1 to 65535`},
		{"port of IPv6", "[::1]:70000/a", `port "70000" is not a number`},
		{"port of upper-case host", "REG.test:00/a:1", `port "00" is not a number`},
		{"dot-dot", "quay.io/a/../b:1", "invalid reference format"},
		{"double slash", "quay.io/a//b:1", "invalid reference format"},
		{"dot", "./a:1", "invalid reference format"},
		{"leading slash", "/a:1", "invalid reference format"},
		{"trailing slash", "quay.io/a/", "invalid reference format"},
		{"percent", "quay.io/a%2fb:1", "invalid reference format"},
		{"query", "quay.io/a?b=c", "invalid reference format"},
		{"fragment", "quay.io/a#b", "invalid reference format"},
		{"userinfo", "user:pass@quay.io/a:1", "invalid reference format"},
		{"scheme", "https://quay.io/a:1", "invalid reference format"},
		{"newline", "quay.io/a:1\n", "invalid reference format"},
		{"space", " quay.io/a:1", "invalid reference format"},
		{"three underscores", "quay.io/a___b:1", "invalid reference format"},
		{"B13 tag of 129", "quay.io/a:" + strings.Repeat("t", 129), "tag must not be more than 128 characters"},
		{"B13 tag of 129 of a host with a port", "reg.test:5000/a:" + strings.Repeat("t", 129) + "@" + aDigest, "tag must not be more than 128 characters"},
		{"tag of 129 of what is no name", "quay.io//a:" + strings.Repeat("t", 129), "invalid reference format"},
		{"path of 256 behind a port", "reg.test:5000/" + strings.Repeat("p", 256), "must not be more than 255 characters"},
		{"long path with a double slash behind a port", "reg.test:5000/" + strings.Repeat("p", 200) + "//a", "invalid reference format"},
		{"path of 256", "quay.io/" + strings.Repeat("p", 256), "must not be more than 255 characters"},
		{"short digest", "quay.io/a@sha256:0000", "invalid reference format"},
		{"digest of 63", "quay.io/a@sha256:" + sha256Hex[1:], "invalid checksum digest length"},
		{"upper-case digest", "quay.io/a@sha256:" + strings.Repeat("A", 64), "invalid checksum digest format"},
		{"md5", "quay.io/a@md5:" + strings.Repeat("0", 32), "unsupported digest algorithm"},
		{"bare identifier", sha256Hex, "64-byte hexadecimal"},
		{"digest alone", "@" + aDigest, "invalid reference format"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			named, err := resolver.ParseNamed(tt.in)
			if err == nil {
				t.Fatalf("got %s, want an error with %q", named, tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) || !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v (invalid argument: %t), want invalid argument with %q", err, errdefs.IsInvalidArgument(err), tt.want)
			}
			if route := new(resolver.Routes).Route(t.Context(), tt.in); route.Err == nil || len(route.Targets) > 0 {
				t.Errorf("got route %v, want none", route)
			}
		})
	}
}

func TestParseDomain(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"r.example.com", "r.example.com"},
		{"R.Example.com:5000/Team", ""},
		{"R.Example.com:5000/team/", "r.example.com:5000/team"},
		{"https://r.example.com/p//", "r.example.com/p"},
		{"HTTP://r.example.com", "r.example.com"},
		{"oci://r.example.com/p", "r.example.com/p"},
		{"index.docker.io/mine", "docker.io/mine"},
		{"https://r.example.com:443/p", "r.example.com/p"},
		{"myhost:443/p", "myhost:443/p"}, // without its port it would be no host
		{"[::1]:5000/p", "[::1]:5000/p"},
		{"[0::0:1]:5000/p", "[::1]:5000/p"},
		{"https://[2001:DB8:0:0::1]", "[2001:db8::1]"},
		{"10.10.254.254:8000/spectro-images/", "10.10.254.254:8000/spectro-images"},
		{"localhost/p", "localhost/p"},
		{"", ""},
		{"/", ""},
		{"https://", ""},
		{"://r.example.com", ""},
		{"https://https://r.example.com", ""},
		{"myhost/p", ""},
		{"r.example.com:0/p", ""},
		{"r.example.com:x/p", ""},
		{"r.example.com/p:1", ""},
		{"r.example.com/p@" + aDigest, ""},
		{"r.example.com//p", ""},
		{"r.example.com/../p", ""},
		{"r.example.com/p q", ""},
		{"r_x.example.com/p", ""},
		{"[::1/p", ""},
	} {
		got, err := resolver.ParseDomain(tt.in)
		if string(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q: got %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
}

// A scheme is tolerated in a domain, and nowhere else.
func TestParsePrefixRefusesScheme(t *testing.T) {
	if p, err := resolver.ParsePrefix("https://r.example.com/p"); err == nil || !strings.Contains(err.Error(), "has a scheme") {
		t.Errorf("got %q, %v, want an error about the scheme", p, err)
	}
}

func TestPrefixContains(t *testing.T) {
	for _, tt := range []struct {
		prefix resolver.Prefix
		name   string
		want   bool
	}{
		{"gcr.io/foo", "gcr.io/foo", true},
		{"gcr.io/foo", "gcr.io/foo/bar", true},
		{"gcr.io/foo", "gcr.io/foobar", false},
		{"gcr.io/foo", "gcr.io", false},
		{"gcr.io", "gcr.io:5000/foo", false},
		{"gcr.io", "gcr.io.example.com/foo", false},
		{"gcr.io:5000", "gcr.io:5000/foo", true},
		{"gcr.io:500", "gcr.io:5000/foo", false},
	} {
		if got := tt.prefix.Contains(tt.name); got != tt.want {
			t.Errorf("%s contains %s: got %t, want %t", tt.prefix, tt.name, got, tt.want)
		}
	}
}
