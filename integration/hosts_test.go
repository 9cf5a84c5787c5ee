// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestHostsFiles: where a pull goes to a registry that is not configured here, hosts.toml files are in force as in
// stock: for the source, for a name that no rule matches, and for a target of a rule.
func TestHostsFiles(t *testing.T) {
	daemon.RequireRoot(t)
	mirror, empty := registry.Start(t, registry.Options{Users: ann}), registry.Start(t, registry.Options{})
	hosts := t.TempDir()
	m := mirror.Mirror(t)
	m.Authorization = "Basic " + basicAnn
	for _, host := range []string{"quay.test", "plain.test", "other.test"} {
		registry.WriteHosts(t, hosts, host, m)
	}
	n := startNode(t, entry(t, empty, "")+rule("quay.test", empty.Host()+"/q", "source")+rule("third.test", "other.test/t")+
		rule("*", "source"), daemon.Options{CRI: true, Config: criHosts(hosts), Level: "info"})
	for i, tc := range []struct{ ref, path, source string }{
		{"quay.test/a/b:1", "a/b", "quay.test"},
		{"plain.test/c:1", "c", "plain.test"},
		{"third.test/d:1", "t/d", "other.test"},
	} {
		t.Run(tc.ref, func(t *testing.T) {
			img := image.Small("linux/amd64", uint64(180+2*i))
			img.Push(t, mirror, tc.path+":1")
			mirror.Log.Reset()
			if err := pullCRI(t, n.Daemon, tc.ref); err != nil {
				t.Fatalf("%v\n%s", err, mirror.Log.Lines())
			}
			if got := mirror.Log.Match("GET", "/v2/"+tc.path+"/blobs/*"); len(got) == 0 {
				t.Errorf("got no blob of the mirror:\n%s", mirror.Log.Lines())
			}
			for _, req := range mirror.Log.Requests() {
				if req.Query.Get("ns") != tc.source {
					t.Errorf("got request %s, want it as a mirror of %s", req, tc.source)
				}
			}
			if err := img.Compare(n.Rootfs(t, "k8s.io", tc.ref)); err != nil {
				t.Error(err)
			}
			if got := n.Log.Lines(`msg="pulled image"`, "ref=\""+tc.ref, "source="+tc.source); len(got) != 1 {
				t.Errorf("got lines %q, want one with the source %s", got, tc.source)
			}
		})
	}
	if got := empty.Log.Match("HEAD", "/v2/q/a/b/manifests/1"); len(got) != 1 {
		t.Errorf("got %d requests of the first target of quay.test, want 1", len(got))
	}
}
