// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
)

// TestLoaderStanzaMistakes has mistakes in the loader's stanza. containerd starts, `berth config check` says where each is, and
// the status and the log say it too.
func TestLoaderStanzaMistakes(t *testing.T) {
	daemon.RequireRoot(t)
	for _, tc := range []struct{ name, text, key, want string }{
		{"an unknown key", `pths = ["/a"]`, "pths", "unknown key"},
		{"a number for a list", `paths = 7`, "paths", "want"},
		{"a text for a truth", `pin = "yes"`, "pin", "want"},
		{"a relative path", `paths = ["opt/images"]`, "paths", `"opt/images" is not an absolute path`},
		{"a pattern", `paths = ["/opt/images/*.tar"]`, "paths", `"/opt/images/*.tar" is a pattern; name the folder`},
		{"a bad namespace", `namespace = "a/b"`, "namespace", `"a/b" is not a namespace`},
		{"a bad platform", `platform = "linux/amd64/v1/x/y"`, "platform", "is not a platform"},
		{"a wait without a unit", `wait = "60"`, "wait", "60"},
		{"a wait that is too long", `wait = "48h"`, "wait", "48h"},
		{"too many at once", `parallel = 1000`, "parallel", "1000"},
		{"an unknown way", `on_conflict = "merge"`, "on_conflict", `want "replace" or "keep"`},
		{"an alias that is no reference", `aliases = { "A B" = "registry.k8s.io/pause:3.10" }`, "aliases", `"A B" is not a reference`},
		{"one alias in two spellings", `aliases = { "Quay.io/a" = "quay.io/b:1", "quay.io:443/a:latest" = "quay.io/c:1" }`, "aliases", `"quay.io:443/a:latest" is another spelling of "Quay.io/a"`},
		{"a snapshotter that is not there", `snapshotter = "zfs9"`, "", `snapshotter "zfs9"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := loading{dropIns: map[string]string{"20-loader.toml": loaderStanza("\n" + tc.text)}}
			l.node = newNode(t, "", daemon.Options{DropIns: l.dropIns})
			if err := l.Run(t); err != nil {
				t.Fatalf("start: %v\n%s", err, l.Log.Tail(20))
			}
			out, good := l.status(t)
			if good || !strings.Contains(out, "no bundle is loaded, until this is mended:\n  error: ") || !strings.Contains(out, tc.want) {
				t.Errorf("got status %t\n%s\nwant %q", good, out, tc.want)
			}
			if got := l.Log.Lines("level=error", strings.ReplaceAll(tc.want, `"`, `\"`)); len(got) != 1 {
				t.Errorf("got lines %q, want one error", got)
			}
			if _, errs, code := berth(t, "load", "--address", l.Address, t.TempDir()); code != 1 || !strings.Contains(errs, tc.want) {
				t.Errorf("load: got %d %q, want the same", code, errs)
			}
			if tc.key == "" {
				return // only a running containerd knows
			}
			_, errs, code := berth(t, "config", "check", "--config", l.ConfigFile())
			want := fmt.Sprintf("error: %s:4: ", filepath.Join(l.Dir, "conf.d/20-loader.toml"))
			if code != 1 || !strings.HasPrefix(errs, want) || !strings.Contains(errs, tc.key) || !strings.Contains(errs, tc.want) {
				t.Errorf("config check: got %d\n%swant 1 and\n%s… %s …", code, errs, want, tc.want)
			}
		})
	}
}

// TestLoaderStanzaAllWrong has all mistakes reported at once, and what is right beside them not.
func TestLoaderStanzaAllWrong(t *testing.T) {
	daemon.RequireRoot(t)
	n := newNode(t, "", daemon.Options{DropIns: map[string]string{"20-loader.toml": loaderStanza(
		"namespace = \"k8s.io\"\npths = []\nwait = \"never\"\npaths = [\"/a\", \"b\"]\n")}})
	if err := n.Run(t); err != nil {
		t.Fatal(err)
	}
	_, errs, code := berth(t, "config", "check", "--config", n.ConfigFile())
	for _, want := range []string{":4: ", ":5: ", ":6: "} {
		if !strings.Contains(errs, "20-loader.toml"+want) {
			t.Errorf("got\n%swant a mistake at %s", errs, want)
		}
	}
	if strings.Count(errs, "error: ") != 3 || code != 1 {
		t.Errorf("got %d\n%swant 1 and 3 errors", code, errs)
	}
}
