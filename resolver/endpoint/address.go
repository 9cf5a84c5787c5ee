// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// isSameHost reports whether two hosts without ports are one: names without regard to case, addresses of IPv6 in any spelling.
func isSameHost(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x == y
}

// directIfLocal is a choice of proxies that has none for what leads to the machine that asks. A proxy may be that machine,
// and so a token realm that is such a name is not asked through one, but dialled, which [refuseLocal] refuses. What other
// names lead to is the proxy's to say: where there is one, this machine often cannot resolve them.
func directIfLocal(proxy func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(req *http.Request) (*url.URL, error) {
		if isLocalName(req.URL.Hostname()) {
			return nil, nil
		}
		return proxy(req)
	}
}

// isLocalName reports whether a host is a name of loopback (RFC 6761, 6.3), or one that resolvers take for an address though
// it is not written as one, such as 127.1, 0x7f.1 and 127.0.0.1 with a dot behind it: its last label is a number.
func isLocalName(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	last := host[strings.LastIndexByte(host, '.')+1:]
	return last == "localhost" || strings.HasPrefix(last, "0x") || last != "" && strings.Trim(last, "0123456789") == ""
}
