// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestConfigVersions has main files and drop-ins of every version that containerd reads, none of them the same.
func TestConfigVersions(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: ann})
	image.Small("linux/amd64", 70).Push(t, r, "edge/quay.io/a/b:1")
	for _, tc := range []struct{ main, dropIn int }{{2, 3}, {3, 2}, {4, 2}, {2, 4}, {3, 4}, {4, 3}} {
		t.Run(fmt.Sprintf("main %d, drop-in %d", tc.main, tc.dropIn), func(t *testing.T) {
			etc := t.TempDir()
			write(t, etc+"/password", "s3cret\n")
			registries := strings.ReplaceAll(entry(t, r, "edge", `username = "ann"`, fmt.Sprintf("password_file = %q", etc+"/password")),
				"[[registries]]", fmt.Sprintf("[[plugins.%q.registries]]", resolverURI))
			text := fmt.Sprintf("version = %d\nrequired_plugins = [%q]\n[plugins.%[2]q]\nconfig_path = []\n%s", tc.dropIn, resolverURI, registries)
			n := startNode(t, "", daemon.Options{Version: tc.main, CRI: true, DropIns: map[string]string{"10-berth.toml": text}})
			r.Log.Reset()
			if err := pullCRI(t, n.Daemon, "quay.io/a/b:1"); err != nil {
				t.Error(err)
			}
			if len(r.Log.Match("GET", "/v2/edge/quay.io/a/b/blobs/*")) == 0 {
				t.Errorf("got no blob of the rewritten repository:\n%s", r.Log.Lines())
			}
			out, problems, code := berth(t, "config", "check", "--config", n.ConfigFile())
			if want := "good: 1 registry, 0 rules and the implied one, * to " + r.Host() + "/edge, 0 files\n"; out != want || code != 0 {
				t.Errorf("got config check %d %q %q, want 0 %q", code, out, problems, want)
			}
		})
	}
}

// etcBerth returns a Setup that makes dir the daemon's /etc/berth. The machine's own /etc is not touched: it gets a
// layer on top of it that nobody but the daemon sees.
func etcBerth(dir string) func() error {
	return func() error {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
		upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
		if err := os.MkdirAll(filepath.Join(upper, "berth"), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(work, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("overlay", "/etc", "overlay", 0, fmt.Sprintf("lowerdir=/etc,upperdir=%s,workdir=%s", upper, work)); err != nil {
			return fmt.Errorf("mount overlay at /etc: %w", err)
		}
		return nil
	}
}

// TestDefaultFiles adopts Berth with one file below /etc/berth and no stanza at all.
func TestDefaultFiles(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: ann})
	image.Small("linux/amd64", 71).Push(t, r, "edge/quay.io/a/b:1")
	setup, text := etcBerth(t.TempDir()), entry(t, r, "edge", login("ann", "s3cret"))
	n := startNode(t, "", daemon.Options{
		DropIns: map[string]string{"10-berth.toml": ""},
		Setup: func() error {
			if err := setup(); err != nil {
				return err
			}
			return os.WriteFile("/etc/berth/registry.toml", []byte(text), 0o600)
		},
	})
	if err := pullCtr(t, n.Daemon, "quay.io/a/b:1"); err != nil {
		t.Error(err)
	}
	if len(r.Log.Match("GET", "/v2/edge/quay.io/a/b/blobs/*")) == 0 {
		t.Errorf("got no blob of the rewritten repository:\n%s", r.Log.Lines())
	}
	out, _, code := berth(t, "status", "--address", n.Address)
	if !strings.Contains(out, "file: /etc/berth/registry.toml") || code != 0 {
		t.Errorf("got status %d\n%s\nwant 0 and the file", code, out)
	}
}

// TestDropInNotImported has a drop-in beside a main file that does not import it: containerd says nothing.
func TestDropInNotImported(t *testing.T) {
	n := startNode(t, "", daemon.Options{})
	main, err := os.ReadFile(n.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	if got := n.Log.Lines("is not read"); len(got) != 0 {
		t.Errorf("got %q of a drop-in that is imported, want nothing", got)
	}
	imports := fmt.Sprintf("imports = [%q]\n", n.Dir+"/conf.d/*.toml")
	n.Restart(t, func(o *daemon.Options) { o.Main = strings.Replace(string(main), imports, "", 1) })
	file := n.Dir + "/conf.d/10-berth.toml"
	if got := n.Log.Lines("level=warning", file+" is not read", "add imports = "); len(got) != 1 {
		t.Errorf("got lines %q, want one warning of %s", got, file)
	}
	_, problems, code := berth(t, "config", "check", "--config", n.ConfigFile())
	if !strings.Contains(problems, "warning: "+file) || code != 0 {
		t.Errorf("got config check %d %q, want 0 and a warning of %s", code, problems, file)
	}
}

// TestVersion asks the binary itself.
func TestVersion(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"--version"}, []string{"containerd github.com/containerd/containerd/v2 ", "(berth "}},
		{[]string{"config", "default"}, []string{`[plugins.'` + resolverURI + `']`, "config_path = ['/etc/berth/*.toml', '/etc/berth/*.yaml']"}},
	} {
		out, err := exec.CommandContext(t.Context(), binaries.Path(t, binaries.Containerd), tc.args...).CombinedOutput()
		if err != nil {
			t.Fatalf("containerd %s: %v\n%s", tc.args, err, out)
		}
		for _, want := range tc.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("containerd %s: got\n%s\nwant %q", tc.args, out, want)
			}
		}
	}
}
