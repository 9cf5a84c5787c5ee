// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package dropin_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-edge/berth/plugin/dropin"
)

const ours = "io.containerd.resolver.v1.external-registry"

const stanza = "[plugins.\"" + ours + "\"]\n"

// tree writes files below a new directory and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// relative returns paths below dir without it.
func relative(dir string, paths []string) []string {
	var out []string
	for _, path := range paths {
		out = append(out, strings.TrimPrefix(path, dir+"/"))
	}
	return out
}

func TestNotImported(t *testing.T) {
	for _, tt := range []struct {
		name, main string
		want       []string
	}{
		{"no imports", "version = 3\n", []string{"conf.d/a.toml", "conf.d/b.toml"}},
		{"no main file", "", []string{"conf.d/a.toml", "conf.d/b.toml"}},
		{"all imported", "imports = [\"DIR/conf.d/*.toml\"]\n", nil},
		{"relative to the main file", "imports = [\"conf.d/*.toml\"]\n", nil},
		{"by another spelling", "imports = [\"./x/../conf.d/*.toml\"]\n", nil},
		{"through a link", "imports = [\"DIR/link/*.toml\"]\n", nil},
		{"one of them", "imports = [\"conf.d/a.toml\"]\n", []string{"conf.d/b.toml"}},
		{"by another import", "imports = [\"more.toml\"]\n", []string{"conf.d/a.toml"}},
		{"main file that does not parse", "imports = [\n", []string{"conf.d/a.toml", "conf.d/b.toml"}},
		{"only * is a pattern to containerd", "imports = [\"conf.d/?.toml\"]\n", []string{"conf.d/a.toml", "conf.d/b.toml"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, map[string]string{
				"conf.d/a.toml": stanza, "conf.d/b.toml": "required_plugins = [\"" + ours + "\"]\n", "conf.d/c.toml": "version = 3\n", "conf.d/d.txt": stanza,
				"more.toml": "imports = [\"config.toml\", \"conf.d/b.toml\", \"absent.toml\"]\n",
			})
			if err := os.Symlink("conf.d", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			main := filepath.Join(dir, "config.toml")
			if tt.main != "" {
				if err := os.WriteFile(main, []byte(strings.ReplaceAll(tt.main, "DIR", dir)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := relative(dir, dropin.NotImported(main, ours)); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// The main file may be named relative to the working directory, as in `containerd -c config.toml`.
func TestRelativeMainFile(t *testing.T) {
	dir := tree(t, map[string]string{"conf.d/a.toml": stanza, "config.toml": ""})
	t.Chdir(dir)
	if got, want := dropin.Pattern("config.toml"), filepath.Join(dir, "conf.d", "*.toml"); got != want {
		t.Errorf("got pattern %s, want %s", got, want)
	}
	if got, want := dropin.NotImported("config.toml", ours), []string{filepath.Join(dir, "conf.d/a.toml")}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Breadth first, each once, as containerd merges them.
func TestImported(t *testing.T) {
	dir := tree(t, map[string]string{
		"config.toml": "imports = [\"a.toml\", \"d/*.toml\"]\n",
		"a.toml":      "imports = [\"z.toml\", \"config.toml\"]\n",
		"z.toml":      "", "d/2.toml": "imports = [\"../a.toml\", \"3.conf\"]\n", "d/1.toml": "", "d/3.conf": "",
	})
	got := relative(dir, dropin.Imported(filepath.Join(dir, "config.toml")))
	if want := []string{"a.toml", "d/1.toml", "d/2.toml", "z.toml", "d/3.conf"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := dropin.Imported(filepath.Join(dir, "absent.toml")); len(got) > 0 {
		t.Errorf("absent: got %q, want none", got)
	}
}

// A4: what was meant for us and has no effect is found, with its line and what to write instead.
func TestMisplaced(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"right", stanza, ""},
		{"of others", "[plugins.\"io.containerd.cri.v1.images\"]\n[plugins.\"io.containerd.transfer.v1.local\"]\n", ""},
		{"letter missing", "\n[plugins.\"io.containerd.resolvr.v1.external-registry\"]\n", `2 plugins."io.containerd.resolvr.v1.external-registry" is not a plugin; did you mean "` + ours + `"?`},
		{"underscore", "[plugins.\"io.containerd.resolver.v1.external_registry\"]\n", `1 plugins."io.containerd.resolver.v1.external_registry" is not a plugin; did you mean`},
		{"another id", "[plugins.\"io.containerd.resolver.v1.berth\"]\n", `1 plugins."io.containerd.resolver.v1.berth" is not a plugin; did you mean`},
		{"no quotes", "version = 3\n[plugins." + ours + "]\n", `2 plugins.` + ours + ` has no effect without quotes around the plugin's name; write plugins."` + ours + `"`},
		{"rules at the top", "version = 3\n\n[[rules]]\nfrom = \"a.io\"\n", `3 rules has no effect at the top of containerd's configuration; move it below plugins."` + ours + `"`},
		{"does not parse", "[[rules]\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, map[string]string{"config.toml": "imports = [\"in.toml\"]\n", "in.toml": tt.text})
			got := dropin.Read(filepath.Join(dir, "config.toml")).Misplaced(ours, "registries", "rules")
			if tt.want == "" {
				if len(got) > 0 {
					t.Errorf("got %+v, want nothing", got)
				}
				return
			}
			line, want, _ := strings.Cut(tt.want, " ")
			if len(got) != 1 || got[0].File != filepath.Join(dir, "in.toml") || line != string(rune('0'+got[0].Line)) || !strings.HasPrefix(got[0].Key+" "+got[0].Text, want) {
				t.Errorf("got %+v, want line %s, %s", got, line, want)
			}
		})
	}
}

// Containerd takes arrays of tables of the last file that has them. Those of the others have no effect, which may be a denial's.
func TestReplaced(t *testing.T) {
	rules := "\n[[plugins.\"" + ours + "\".rules]]\nfrom = \"quay.io\"\ndeny = true\n"
	dir := tree(t, map[string]string{
		"config.toml": "imports = [\"d/*.toml\"]\n" + rules,
		"d/1.toml":    "[[plugins.\"" + ours + "\".registries]]\n",
		"d/2.toml":    "version = 2\n" + rules,
		"d/3.toml":    rules,
	})
	var got []string
	for _, u := range dropin.Read(filepath.Join(dir, "config.toml")).Replaced(ours, "registries", "rules") {
		text, _, _ := strings.Cut(strings.ReplaceAll(u.String(), dir+"/", ""), ", and")
		got = append(got, text)
	}
	want := []string{
		"config.toml:3: plugins.\"" + ours + "\".rules has no effect: d/2.toml has rules too",
		"d/2.toml:3: plugins.\"" + ours + "\".rules has no effect: d/3.toml has rules too",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
