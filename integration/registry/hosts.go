// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Mirror is one host of a hosts.toml.
type Mirror struct {
	URL           string // with a path /v2/… if OverridePath
	CA            string // file; "" for the system's
	SkipVerify    bool
	OverridePath  bool
	Authorization string // header to send, such as "Basic …"; "" for none
}

// Mirror returns r as a host of a hosts.toml.
func (r *Registry) Mirror(tb testing.TB) Mirror {
	tb.Helper()
	m := Mirror{URL: r.URL()}
	if r.CA != nil {
		m.CA = r.CA.File(tb)
	}
	return m
}

// WriteHosts writes what stock containerd reads of host, namely dir/host/hosts.toml. Without mirrors it says that
// the host itself is asked, over HTTPS.
func WriteHosts(tb testing.TB, dir, host string, mirrors ...Mirror) {
	tb.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "server = %q\n", "https://"+host)
	for _, m := range mirrors {
		fmt.Fprintf(&b, "\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", m.URL)
		fmt.Fprintf(&b, "  skip_verify = %t\n  override_path = %t\n", m.SkipVerify, m.OverridePath)
		if m.CA != "" {
			fmt.Fprintf(&b, "  ca = %q\n", m.CA)
		}
		if m.Authorization != "" {
			fmt.Fprintf(&b, "  [host.%q.header]\n    Authorization = %q\n", m.URL, m.Authorization)
		}
	}
	path := filepath.Join(dir, host, "hosts.toml")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		tb.Fatal(err)
	}
}
