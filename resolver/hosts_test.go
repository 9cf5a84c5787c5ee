// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/errdefs"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// A registry that is not configured is reached as the client would: by the hosts.toml of the host that it named, or of
// the target's, and by its default scheme. Its headers and credentials stay with the registry that it named.
func TestHostsOfTheClient(t *testing.T) {
	t.Parallel()
	content := registrytest.NewImage("hosts", 4<<10)
	rules := func(to string) string { return fmt.Sprintf("[[rules]]\nfrom = \"quay.io\"\nto = [%q]\n", to) }
	for _, tt := range []struct {
		name, config, ref string
		dir               string // of hosts.toml; "" is none
		scheme            string
		kind              error
		sent              bool // the client's credential and header
	}{
		{name: "source, by a rule", config: rules("source"), ref: ref, dir: "quay.io", sent: true},
		{name: "source, by another name of its host", config: rules("source"), ref: "quay.io:443/org/app:1", dir: "quay.io:443", sent: true},
		{name: "source, without a rule", config: rules("SERVER/m"), ref: "ghcr.io/org/app:1", dir: "ghcr.io", sent: true},
		{name: "rewritten, by the target's", config: rules("mirror.test/m"), ref: ref, dir: "mirror.test"},
		{name: "rewritten, plain HTTP on loopback", config: rules("SERVER/m"), ref: ref},
		{name: "rewritten, plain HTTP where the client says HTTPS", config: rules("SERVER/m"), ref: ref, scheme: "https", kind: errdefs.ErrUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var s *registrytest.Server
			guard := registrytest.Registry{Image: content}
			s = registrytest.Serve(t, nil, http.Handler(guard))
			if tt.sent {
				s = registrytest.Serve(t, nil, registrytest.Basic("pod-user", "pod-pass", guard))
			}
			certs := t.TempDir()
			if tt.dir != "" {
				if err := os.Mkdir(filepath.Join(certs, tt.dir), 0o700); err != nil {
					t.Fatal(err)
				}
				text := fmt.Sprintf("[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", s.URL)
				if err := os.WriteFile(filepath.Join(certs, tt.dir, "hosts.toml"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			n := newNode(t, strings.ReplaceAll(tt.config, "SERVER", s.Host))
			err := n.pull(t.Context(), tt.ref, registry.WithHostDir(certs), registry.WithDefaultScheme(tt.scheme),
				registry.WithCredentials(newPod()), registry.WithHeaders(http.Header{"X-Pod": {"pod-header"}}))
			if got := s.Received(podSecrets...); len(got) > 0 != tt.sent {
				t.Errorf("the registry received %q, want any %t", got, tt.sent)
			}
			if tt.kind != nil {
				wantError(t, err, tt.kind, "pull "+tt.ref)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			n.wantImage(t, tt.ref, content)
			n.wantNoLeftovers(t)
		})
	}
}
