// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// measured are what differs from run to run: digests and sizes.
var measured = regexp.MustCompile(`sha256:[0-9a-f]+…?|[0-9.]+ [kMG]?B\b`)

// TestWalk runs the session of the README that fills a registry, line by line, with registries of its own in the place of
// the two that it names, and has a node pull from what it filled.
func TestWalk(t *testing.T) {
	daemon.RequireRoot(t)
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, session, ok := strings.Cut(string(readme), "```console\n$ cat registry.toml\n")
	session, _, ended := strings.Cut(session, "```")
	if !ok || !ended {
		t.Fatal("got no session in the README that begins with cat registry.toml")
	}
	public := registry.Start(t, registry.Options{})
	own := registry.Start(t, registry.Options{Users: map[string]string{"node": "s3cret"}})
	image.Hello(t, "from", "app").Push(t, public, "team/app:1.0")
	image.Hello(t, "from", "db").Push(t, public, "team/db:2.1")
	dir := t.TempDir()
	write(t, dir+"/password", "s3cret\n")
	write(t, dir+"/manifests/app.yaml", fmt.Sprintf("kind: Pod\nspec:\n  containers: [{image: %s/team/app:1.0}]\n", public.Host()))
	write(t, dir+"/manifests/db.yaml", fmt.Sprintf("kind: StatefulSet\nspec: {template: {spec: {containers: [{image: %s/team/db:2.1}]}}}\n", public.Host()))
	here := strings.NewReplacer("registry.example.com", own.Host(), "quay.io", public.Host(), "/etc/berth/password", dir+"/password", "/etc/berth/ca.pem", own.CA.File(t))
	there := strings.NewReplacer(own.Host(), "registry.example.com", public.Host(), "quay.io")

	config, session, _ := strings.Cut(session, "$ ")
	// Stands for the authority that a public registry has from the system.
	write(t, dir+"/registry.toml", here.Replace(config)+fmt.Sprintf("[[registries]]\ndomain = %q\ncertificates = [%q]\n", public.Host(), public.CA.File(t)))
	for step := range strings.SplitSeq(session, "$ ") {
		line, want, _ := strings.Cut(step, "\n")
		cmd := exec.Command("sh", "-c", line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binaries.Path(t, binaries.Berth))+":"+os.Getenv("PATH"))
		out, err := cmd.Output()
		if got, want := measured.ReplaceAllString(there.Replace(string(out)), "N"), measured.ReplaceAllString(want, "N"); got != want {
			t.Errorf("$ %s (%v)\ngot\n%s\nwant\n%s", line, err, got, want)
		}
	}
	public.Close()
	n := startNode(t, "", daemon.Options{DropIns: map[string]string{"10-berth.toml": stanza(fmt.Sprintf("config_path = [%q]", dir+"/registry.toml"))}})
	for name, want := range map[string]string{"app:1.0": "hello from app\n", "db:2.1": "hello from db\n"} {
		ref := public.Host() + "/team/" + name
		if err := pullCtr(t, n.Daemon, ref); err != nil {
			t.Error(err)
		} else if got := n.CtrRun(t, "default", ref, "c"+name[:1]); got != want {
			t.Errorf("%s: got %q, want %q", ref, got, want)
		}
	}
}
