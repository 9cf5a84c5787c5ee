// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/strict"
)

// stanza is a stanza as containerd hands it over, with config_path as TOML decodes it.
func stanza(values map[string]any, paths ...string) strict.Stanza {
	list := make([]any, len(paths))
	for i, path := range paths {
		list[i] = path
	}
	if values == nil {
		values = map[string]any{}
	}
	values["config_path"] = list
	return strict.Stanza{Name: "STANZA", Values: values}
}

func rule(from, to string) string {
	return fmt.Sprintf("[[rules]]\nfrom = %q\nto = [%q]\n", from, to)
}

// The stanza comes first, then config_path in its order, globs sorted; a file that is named twice is read once.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"z.toml": rule("z.io", "r.io"), "b.toml": rule("b.io", "r.io"), "a.toml": rule("a.io", "r.io"), "a.txt": "not TOML",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	values := map[string]any{"rules": []any{map[string]any{"from": "stanza.io", "to": []any{"r.io"}}}}
	loaded, err := config.Load(stanza(values, filepath.Join(dir, "z.toml"), filepath.Join(dir, "*.toml"), filepath.Join(dir, "none", "*.toml")))
	if err != nil {
		t.Fatal(err)
	}
	var froms []string
	for _, r := range loaded.Rules {
		froms = append(froms, r.From)
	}
	if want := []string{"stanza.io", "z.io", "a.io", "b.io"}; !slices.Equal(froms, want) {
		t.Errorf("got rules %q, want %q", froms, want)
	}
	var names []string
	for _, file := range loaded.Files {
		names = append(names, filepath.Base(file))
	}
	if want := []string{"z.toml", "a.toml", "b.toml"}; !slices.Equal(names, want) {
		t.Errorf("got files %q, want %q", names, want)
	}
}

// H9: what editors and tools keep beside a file while they write is not read.
func TestGlobsLeaveTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.toml", ".a.toml", "a.toml.new", "a.toml~"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(rule("quay.io", "r.io")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("user@host.1234", filepath.Join(dir, ".#a.toml")); err != nil { // Emacs locks a file so
		t.Fatal(err)
	}
	loaded, err := config.Load(stanza(nil, filepath.Join(dir, "*.toml")))
	if want := []string{filepath.Join(dir, "a.toml")}; err != nil || !slices.Equal(loaded.Files, want) {
		t.Errorf("got %q, %v, want %q", loaded.Files, err, want)
	}
}

// The first registry of all places is the implied target, and a mistake in one place names the other.
func TestPlacesAreOne(t *testing.T) {
	file := write(t, "berth.toml", "[[registries]]\ndomain = \"b.io\"\n")
	registry := func(domain string) map[string]any {
		return map[string]any{"registries": []any{map[string]any{"domain": domain}}}
	}
	loaded, err := config.Load(stanza(registry("a.io"), file))
	if err != nil {
		t.Fatal(err)
	}
	routes, err := resolver.NewRoutes(loaded.Config)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := routes.Route(t.Context(), "nginx").Targets[0].Domain(), "a.io"; got != want {
		t.Errorf("got registry %s, want %s", got, want)
	}
	_, err = config.Load(stanza(registry("b.io"), file))
	if want := file + `:2: registries[0].domain: "b.io" is already defined at STANZA`; fmt.Sprint(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A6 and SEC-35: what cannot be read is an error that names it, and never no rules.
func TestPathsThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo.toml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "dangling.toml")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	plain := write(t, "plain.toml", "")
	large := write(t, "large.toml", "# "+strings.Repeat("x", 4<<20))
	subdir := filepath.Join(dir, "dir.toml")
	if err := os.Mkdir(subdir, 0o700); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(dir, "absent.toml")
	for _, tt := range []struct{ name, path, want string }{
		{"a literal path that is absent", absent, absent + ": no such file; pulls are refused until it appears"},
		{"a literal path below a file", plain + "/x.toml", plain + "/x.toml: cannot be read: not a directory"},
		{"a dangling link that a glob matches", filepath.Join(dir, "dang*"), dangling + ": no such file; pulls are refused until it appears"},
		{"a directory", subdir, subdir + ": is a directory; want a file, or a pattern such as " + subdir + "/*.toml"},
		{"a FIFO", fifo, fifo + ": is not a regular file"},
		{"a device", "/dev/zero", "/dev/zero: is not a regular file"},
		{"a file that is too large", large, large + ": is larger than 4194304 bytes"},
		{"a relative path", "etc/berth.toml", `STANZA: config_path: "etc/berth.toml" is not an absolute path`},
		{"an empty path", "", `STANZA: config_path: "" is not an absolute path`},
		{"a pattern that is none", dir + "/[.toml", `STANZA: config_path: "` + dir + `/[.toml": syntax error in pattern`},
		{"a glob below a file", plain + "/*.toml", `STANZA: config_path: "` + plain + `/*.toml": `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			loaded, err := config.Load(stanza(nil, tt.path))
			if err == nil {
				t.Fatalf("got %+v, want an error", loaded)
			}
			if got := err.Error(); !strings.HasPrefix(got, tt.want) || strings.Contains(got, "\n") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A glob may match nothing, and so may all of them.
func TestGlobsThatMatchNothing(t *testing.T) {
	dir := t.TempDir()
	loaded, err := config.Load(stanza(nil, filepath.Join(dir, "*.toml"), filepath.Join(dir, "absent", "*.toml"), filepath.Join(dir, "a?.toml")))
	if err != nil || loaded.Configured() || len(loaded.Files) > 0 {
		t.Errorf("got %+v, %v, want nothing", loaded, err)
	}
	if loaded, err := config.Load(stanza(nil)); err != nil || loaded.Configured() {
		t.Errorf("no path at all: got %+v, %v, want nothing", loaded, err)
	}
}

func TestUnreadYML(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(file, []byte("stylus: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s is not read, since config_path has %s/*.yaml; let its name end in .yaml", file, dir)
	for _, tc := range []struct {
		paths []string
		want  bool
	}{
		{[]string{filepath.Join(dir, "*.toml"), filepath.Join(dir, "*.yaml")}, true},
		{[]string{filepath.Join(dir, "*.yaml"), filepath.Join(dir, "*.yml")}, false},
		{[]string{filepath.Join(dir, "*.toml")}, false},
	} {
		loaded, err := config.Load(stanza(nil, tc.paths...))
		if err != nil || slices.Contains(loaded.Warnings, want) != tc.want {
			t.Errorf("%s: got warnings %q, %v, want one of the file: %t", tc.paths, loaded.Warnings, err, tc.want)
		}
	}
}

// Without config_path the default is in force; as a list of Go's it is what `containerd config default` prints.
func TestDefaultPath(t *testing.T) {
	before := config.DefaultPath
	t.Cleanup(func() { config.DefaultPath = before })
	if want := []string{"/etc/berth/*.toml", "/etc/berth/*.yaml"}; !slices.Equal(before, want) {
		t.Errorf("got default %q, want %q", before, want)
	}
	file := write(t, "berth.toml", rule("quay.io", "r.io"))
	config.DefaultPath = []string{filepath.Join(filepath.Dir(file), "*.toml")}
	for _, values := range []map[string]any{nil, {}, {"config_path": config.DefaultPath}} {
		loaded, err := config.Load(strict.Stanza{Name: "STANZA", Values: values})
		if err != nil || len(loaded.Rules) != 1 {
			t.Errorf("%v: got %+v, %v, want the rule of the default path", values, loaded, err)
		}
	}
}

// A3: a wrong type in the stanza is our error, which names the plugin, and not containerd's end.
func TestStanzaMistakes(t *testing.T) {
	values := map[string]any{
		"config_path":  "/etc/berth/*.toml",
		"dial_timeout": "three",
		"stal_timeout": "5s",
		"rules":        []any{map[string]any{"from": "quay.io", "to": "r.io"}},
	}
	s := strict.Stanza{Name: "main.toml", Values: values,
		Lines: map[string]int{"config_path": 3, "dial_timeout": 4, "stal_timeout": 5, "rules[0].to": 9, "rules[0]": 7},
		Files: map[string]string{"rules": "conf.d/berth.toml"}}
	_, err := config.Load(s)
	want := []string{
		`main.toml:3: config_path: is text; want a list of texts, such as ["a", "b"]`,
		`main.toml:4: dial_timeout: "three" is not accepted; want a duration with a unit, such as "5s", from 100ms to 5m`,
		`main.toml:5: stal_timeout: unknown key; did you mean "stall_timeout"?`,
		`conf.d/berth.toml:9: rules[0].to: is text; want a list of texts, such as ["a", "b"]`,
	}
	slices.Sort(want)
	got := lines(err, "")
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Lines of dotted keys, sub-tables and tables whose names hold dots.
func TestLines(t *testing.T) {
	got := strict.Lines([]byte("version = 3\r\n\r\n[plugins.\"a.b\"]\n  x = [\n  1,\n]\n  y.z = 2\n\n[[plugins.\"a.b\".rules]]\nfrom = 1\n[[plugins.\"a.b\".rules]]\n\nfrom = 2\n[plugins.\"a.b\".rules.sub]\nk = 1\n"))
	for key, want := range map[string]int{
		"version": 1, "plugins.a.b": 3, "plugins.a.b.x": 4, "plugins.a.b.y.z": 7, "plugins.a.b.rules": 9, "plugins.a.b.rules[0].from": 10,
		"plugins.a.b.rules[1]": 11, "plugins.a.b.rules[1].from": 13, "plugins.a.b.rules[1].sub.k": 15,
	} {
		if got[key] != want {
			t.Errorf("%s: got line %d, want %d", key, got[key], want)
		}
	}
}
