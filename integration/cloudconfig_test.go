// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// indented is text with every line as deep as a block of YAML wants it.
func indented(text, indent string) string {
	return indent + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+indent)
}

// TestCloudConfig pulls on nodes whose one configuration is the cloud-config of their installer, in the two shapes that are
// published; and on such whose configuration was converted from it.
func TestCloudConfig(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: ann})
	image.Small("linux/amd64", 72).Push(t, r, "spectro-images/quay.io/a/b:1")
	image.Small("linux/amd64", 73).Push(t, r, "palette-images/a/b:1")
	single := fmt.Sprintf(`#cloud-config
install: {reboot: true}
stylus:
  site:
    paletteEndpoint: api.example.com
  registryCredentials:
    domain: %q
    username: "ann"
    password: "s3cret"
    insecure: true
`, r.Host()+"/spectro-images")
	several := fmt.Sprintf(`#cloud-config
stylus:
  externalRegistries:
    registries:
      - domain: %q
        username: "ann"
        password: czNjcmV0
        encodedPassword: true
        repositoryName: example-repository-private
        certificates:
          - |
%s
    registryMappingRules:
      "us-docker.pkg.dev/palette-images": %[1]q
`, r.Host()+"/palette-images", indented(string(r.CA.PEM()), strings.Repeat(" ", 12)))
	for _, tc := range []struct{ name, text, ref, repository, logged string }{
		{"single", single, "quay.io/a/b:1", "spectro-images/quay.io/a/b", "rule=\"*\""},
		{"several", several, "us-docker.pkg.dev/palette-images/a/b:1", "palette-images/a/b", "registry-name=example-repository-private"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			etc := t.TempDir()
			write(t, etc+"/user-data.yaml", tc.text)
			pulls(t, r, etc, tc.ref, tc.repository, tc.logged)
		})
		t.Run(tc.name+", converted", func(t *testing.T) {
			etc := t.TempDir()
			file := filepath.Join(t.TempDir(), "user-data")
			write(t, file, tc.text)
			out, problems, code := berth(t, "config", "convert", "--secrets-dir", etc+"/secrets", file)
			if code != 0 {
				t.Fatalf("got config convert %d %q, want 0", code, problems)
			}
			if strings.Contains(out, "s3cret") || strings.Contains(out, "czNjcmV0") {
				t.Errorf("got the password in\n%s", out)
			}
			write(t, etc+"/registry.toml", out)
			pulls(t, r, etc, tc.ref, tc.repository, tc.logged)
		})
	}
}

// pulls has a node with the files of etc pull ref, from repository of r, and looks for what its line in the log has.
func pulls(t *testing.T, r *registry.Registry, etc, ref, repository, logged string) {
	t.Helper()
	text := fmt.Sprintf("config_path = [%q, %q]", etc+"/*.toml", etc+"/*.yaml")
	n := startNode(t, "", daemon.Options{CRI: true, Level: "info", DropIns: map[string]string{"10-berth.toml": stanza(text)}})
	r.Log.Reset()
	if err := pullCRI(t, n.Daemon, ref); err != nil {
		t.Errorf("%v\n%s", err, n.Log.Tail(20))
	}
	if len(r.Log.Match("GET", "/v2/"+repository+"/blobs/*")) == 0 {
		t.Errorf("got no blob of the rewritten repository:\n%s", r.Log.Lines())
	}
	if got := n.Log.Lines(`msg="pulled image"`, logged); len(got) != 1 {
		t.Errorf("got lines %q, want one with %s", got, logged)
	}
	for _, line := range n.Log.Lines("s3cret") {
		t.Errorf("got the password in the log: %s", line)
	}
}
