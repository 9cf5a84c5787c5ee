// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestFailClosed starts with configurations that cannot be used (SEC-35). The daemon serves, required_plugins or not;
// every pull is refused with the file and the line, and nothing is asked; it mends without a restart.
func TestFailClosed(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	image.Small("linux/amd64", 72).Push(t, r, "edge/registry.test/a:1")
	image.Small("linux/amd64", 72).Push(t, r, "a:1")
	hosts := t.TempDir()
	registry.WriteHosts(t, hosts, "registry.test", r.Mirror(t)) // where a pull that is let through would go
	good := entry(t, r, "edge")
	for _, tc := range []struct{ name, text, want string }{
		{"absent", "", "registry.toml: no such file; pulls are refused until it appears"},
		{"syntax", "[[registries]]\ndomain = \n", "registry.toml:2: TOML syntax: "},
		{"unknown key", good + "\nusrname = \"x\"\n", `: registries[0].usrname: unknown key; did you mean "username"?`},
		{"type", "rules = 3\n", "registry.toml:1: rules: is a number; want an array of tables"},
		{"two mistakes", "[[rules]]\nfrom = \"a.*.b\"\nto = [\"\"]\n", "registry.toml:3: rules[0].to: "},
		{"certificate", "[[registries]]\ndomain = \"r.test\"\ncertificates = [\"/absent.pem\"]\n", "registry.toml:3: registries[0].certificates[0]: /absent.pem: cannot be read: no such file or directory"},
		{"directory", "DIRECTORY", "registry.toml: is a directory; want a file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, "", daemon.Options{CRI: true, Config: criHosts(hosts)})
			file := n.etc + "/registry.toml"
			n.Restart(t, func(o *daemon.Options) { // sets what newNode cannot know
				o.DropIns = map[string]string{"10-berth.toml": fmt.Sprintf("required_plugins = [%q]\n", resolverURI) +
					stanza(fmt.Sprintf("config_path = [%q]", file))}
				switch tc.text {
				case "":
				case "DIRECTORY":
					if err := os.Mkdir(file, 0o755); err != nil {
						t.Fatal(err)
					}
				default:
					write(t, file, tc.text)
				}
			})
			r.Log.Reset()
			for _, c := range clients {
				wantError(t, c.pull(t, n.Daemon, "registry.test/a:1"),
					"pull registry.test/a:1: Berth's configuration cannot be used, so nothing is pulled", tc.want)
			}
			if got := r.Log.Requests(); len(got) != 0 {
				t.Errorf("got requests %v, want none", got)
			}
			if got := n.Metrics(t); !strings.Contains(got, "\nberth_configured -1\n") {
				t.Errorf("got metrics\n%s\nwant berth_configured -1", grep(got, "berth_configured"))
			}
			out, _, code := berth(t, "status", "--address", n.Address)
			if code != 1 || !strings.Contains(out, "pulls are refused") || !strings.Contains(out, tc.want) {
				t.Errorf("got status %d\n%s\nwant 1 and %q", code, out, tc.want)
			}
			mistakes := map[bool]int{true: 2, false: 1}[tc.name == "two mistakes"]
			if got := n.Log.Lines("level=error", "pulls are refused until it is mended"); len(got) != mistakes {
				t.Errorf("got lines %q, want %d: a pull that is refused does not say it again", got, mistakes)
			}

			if tc.text == "DIRECTORY" {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			n.configure(t, "registry.toml", good)
			var err error
			within(t, 5*time.Second, "pull after the file was mended", func() bool {
				err = pullCRI(t, n.Daemon, "registry.test/a:1")
				return err == nil
			})
			if len(r.Log.Match("GET", "/v2/edge/registry.test/a/blobs/*")) == 0 {
				t.Errorf("got no blob of the rewritten repository:\n%s", r.Log.Lines())
			}
			if got := n.Metrics(t); !strings.Contains(got, "\nberth_configured 1\n") {
				t.Errorf("got metrics\n%s\nwant berth_configured 1", grep(got, "berth_configured"))
			}
		})
	}
}

// TestStanzaMistakes has mistakes in the stanza itself, which containerd would end on or ignore.
func TestStanzaMistakes(t *testing.T) {
	daemon.RequireRoot(t)
	registries := fmt.Sprintf("[[plugins.%q.registries]]\n", resolverURI)
	for _, tc := range []struct{ name, text, want string }{
		{"password", registries + "domain = \"r.test\"\nusername = \"u\"\npassword = \"hunter2\"", "registries[0].password: `containerd config dump` would print it"},
		{"type of a path", "config_path = 3", "config_path: is a number; want a list of texts"},
		{"type of a duration", "dial_timeout = 3", "dial_timeout: is a number; want a duration with a unit"},
		{"unknown key", "dial_timout = \"3s\"", `dial_timout: unknown key; did you mean "dial_timeout"?`},
		{"relative path", "config_path = [\"berth.toml\"]", `config_path: "berth.toml" is not an absolute path`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := startNode(t, "", daemon.Options{DropIns: map[string]string{"10-berth.toml": stanza(tc.text)}})
			err := pullCtr(t, n.Daemon, "registry.test/a:1")
			wantError(t, err, "nothing is pulled", tc.want)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got error %q, want none of the password", err)
			}
		})
	}
}

// TestCredentialUnavailable: failing to get a credential ends the pull. It is not turned into an anonymous one, and no
// other target is asked.
func TestCredentialUnavailable(t *testing.T) {
	daemon.RequireRoot(t)
	for _, kind := range registries {
		t.Run(kind.name, func(t *testing.T) {
			r, next := registry.Start(t, kind.opts()), registry.Start(t, registry.Options{})
			img := image.Small("linux/amd64", 73)
			img.Push(t, r, "internal/quay.io/a:1")
			img.Push(t, next, "quay.io/a:1")
			secret := t.TempDir() + "/password"
			n := startNode(t, entry(t, r, "internal", `username = "ann"`, fmt.Sprintf("password_file = %q", secret))+entry(t, next, "")+
				rule("quay.io", r.Host()+"/internal/quay.io", next.Host()+"/quay.io"), daemon.Options{})
			wantError(t, pullCtr(t, n.Daemon, "quay.io/a:1"), "pull quay.io/a:1", `rule "quay.io"`, r.Host()+"/internal/quay.io/a:1",
				"read password_file: ", secret+": no such file or directory")
			if got := append(next.Log.Requests(), r.Log.Match("", "/token")...); len(got) != 0 {
				t.Errorf("got requests %v, want none", got)
			}
			write(t, secret, "s3cret\n")
			if err := pullCtr(t, n.Daemon, "quay.io/a:1"); err != nil {
				t.Errorf("got %v once the file is there, want no error", err)
			}
			if got := next.Log.Requests(); len(got) != 0 {
				t.Errorf("got requests %v of the second target, want none", got)
			}
		})
	}
}
