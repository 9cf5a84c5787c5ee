// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
)

// write makes a file in a directory of the test.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// problemsOf loads text and returns the problems without the path of the file: "4: rules[0].from: is empty…".
func problemsOf(t testing.TB, text string) []string {
	t.Helper()
	path := write(t, "berth.toml", text)
	loaded, err := config.LoadFile(path)
	if err != nil && loaded.Configured() {
		t.Errorf("got %d registries and %d rules beside mistakes, want none", len(loaded.Registries), len(loaded.Rules))
	}
	return lines(err, path+":")
}

func lines(err error, prefix string) []string {
	if err == nil {
		return nil
	}
	var out []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		out = append(out, strings.TrimPrefix(line, prefix))
	}
	return out
}

func TestLoadFile(t *testing.T) {
	loaded, err := config.LoadFile(write(t, "berth.toml", "\xef\xbb\xbf"+`# a byte order mark is accepted
dial_timeout = "100ms"
stall_timeout = "5m"

[[registries]]
domain = "https://R.io/p/"
username = "u"
encoded_password = "aHVudGVyMgo="   # echo hunter2 | base64
insecure = true
proxy = "http://proxy.example.com:3128"
token_realms = ["https://auth.example.com", "auth.example.com:8443", "https://auth.example.org:443/"]

[[rules]]
from = "Quay.io/"
to = ["r.io/p/q", "source"]
path = "base"

[[rules]]
from = "quay.io/bad"
deny = true
`))
	if err != nil {
		t.Fatal(err)
	}
	wantRules := []resolver.Rule{
		{From: "quay.io", To: []string{"r.io/p/q", "source"}, Path: resolver.PathBase},
		{From: "quay.io/bad", To: []string{}, Path: resolver.PathRest, Deny: true},
	}
	if !slices.EqualFunc(loaded.Rules, wantRules, func(a, b resolver.Rule) bool {
		return a.From == b.From && slices.Equal(a.To, b.To) && a.Path == b.Path && a.Deny == b.Deny
	}) {
		t.Errorf("got rules %+v, want %+v", loaded.Rules, wantRules)
	}
	r := loaded.Registries[0]
	if r.Domain != "r.io/p" || r.Credential.Username != "u" || r.Credential.Password.Reveal() != "hunter2" || !r.Endpoint.Insecure || r.Endpoint.PlainHTTP {
		t.Errorf("got registry %+v with password %q", r, r.Credential.Password.Reveal())
	}
	if want := []string{"auth.example.com", "auth.example.com:8443", "auth.example.org:443"}; !slices.Equal(r.Endpoint.TokenRealms, want) {
		t.Errorf("got token realms %q, want %q", r.Endpoint.TokenRealms, want)
	}
	if loaded.DialTimeout != 100*time.Millisecond || loaded.StallTimeout != 5*time.Minute {
		t.Errorf("got timeouts %s and %s", loaded.DialTimeout, loaded.StallTimeout)
	}
	if r.Endpoint.Proxy != "http://proxy.example.com:3128" {
		t.Errorf("got proxy %q", r.Endpoint.Proxy)
	}
}

// A5: nothing is valid, and changes no pull.
func TestLoadEmptyFile(t *testing.T) {
	for _, text := range []string{"", "\n# only a comment\n", "\xef\xbb\xbf"} {
		loaded, err := config.LoadFile(write(t, "berth.toml", text))
		if err != nil || loaded.Configured() || len(loaded.Warnings) > 0 {
			t.Errorf("%q: got %+v, %v, want nothing", text, loaded, err)
		}
	}
}

// A1, A2, A8, A9, C1: each mistake has its file, line, key and value, and what is accepted.
func TestMistakes(t *testing.T) {
	const good = "[[rules]]\nfrom = \"quay.io\"\nto = [\"r.io\"]\n"
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"syntax", "[[rules]]\nfrom = \n", []string{"2: TOML syntax: "}},
		{"syntax, unterminated", good + "x = [\n", []string{"4: TOML syntax: "}},
		{"UTF-16", "\xff\xfea\x00=\x001\x00", []string{" is UTF-16 text; save it as UTF-8"}},
		{"binary", "\x7fELF\x02\x01\x01\x00\x00", []string{"1: is not text: it has a zero byte"}},
		{"key twice", "[[rules]]\nfrom = \"a.io\"\nfrom = \"b.io\"\n", []string{"3: TOML syntax: key from is already defined"}},
		{"table twice", "[a]\n[a]\n", []string{"2: TOML syntax: table a already exists"}},
		{"unknown key", "rulez = 1\n", []string{`1: rulez: unknown key; did you mean "rules"?`}},
		{"unknown key, nothing near", "capabilities = 1\n", []string{"1: capabilities: unknown key; known are dial_timeout, registries, rules, stall_timeout"}},
		{"unknown key of a rule", good + "pth = \"base\"\n", []string{`4: rules[0].pth: unknown key; did you mean "path"?`}},
		{"unknown key of a registry", "[[registries]]\ndomain = \"r.io\"\ncertificate = []\n", []string{`3: registries[0].certificate: unknown key; did you mean "certificates"?`}},
		{"config_path in a file", "config_path = []\n", []string{"1: config_path: unknown key; known are dial_timeout, registries, rules, stall_timeout"}},
		{"control characters in a key", "\"a\\n\\u001bb\" = 1\n", []string{`1: a\n\x1bb: unknown key; known are`}},
		{"wrong types", "dial_timeout = 5\n[[rules]]\nfrom = 1\nto = \"r.io\"\ndeny = \"yes\"\npath = []\n", []string{
			`1: dial_timeout: is a number; want a duration with a unit`, "3: rules[0].from: is a number; want text in quotes",
			"4: rules[0].to: is text; want a list of texts", "5: rules[0].deny: is text; want true or false", "6: rules[0].path: is a list; want text in quotes"}},
		{"wrong type in a list", "[[rules]]\nfrom = \"quay.io\"\nto = [1, \"r.io\"]\n", []string{"3: rules[0].to[0]: is a number; want a list of texts"}},
		{"date", "stall_timeout = 2026-01-01\n", []string{"1: stall_timeout: is a date or a time; want"}},
		{"a table where many are", "[rules]\nfrom = \"quay.io\"\n", []string{"1: rules: is a table; want an array of tables, [[rules]]"}},
		{"a dotted key where many are", "\nrules.from = \"quay.io\"\n", []string{"2: rules: is a table; want an array of tables, [[rules]]"}},
		{"no tables in the array", "rules = [\"quay.io\"]\n", []string{"1: rules[0]: is text; want a table"}},
		{"duration without unit", "dial_timeout = \"10\"\n", []string{`1: dial_timeout: "10" is not accepted; want a duration with a unit, such as "5s", from 100ms to 5m`}},
		{"durations out of range", "dial_timeout = \"-1s\"\nstall_timeout = \"9999h\"\n", []string{`1: dial_timeout: "-1s" is not accepted`, `2: stall_timeout: "9999h" is not accepted`}},
		{"duration 0", "dial_timeout = \"0\"\n", []string{`1: dial_timeout: "0" is not accepted`}},
		{"same from", good + "[[rules]]\nfrom = \"QUAY.IO/\"\nto = [\"s.io\"]\n", []string{`5: rules[1].from: "quay.io" is already defined at FILE:2`}},
		{"same from beside other mistakes", good + "[[rules]]\nfrom = \"quay.io\"\nto = []\n[[rules]]\nfrom = \"quay.io\"\nto = [\"r.io/x:1\"]\n", []string{
			`5: rules[1].from: "quay.io" is already defined at FILE:2`, "6: rules[1].to: is empty",
			`8: rules[2].from: "quay.io" is already defined at FILE:2`, `9: rules[2].to: "r.io/x:1" `}},
		{"misspelt keys", "[[registries]]\ndomian = \"r.io\"\n[[rules]]\nfrm = \"a.io\"\nto = [\"r.io\"]\n[[rules]]\nfrom = \"\"\nfrm = \"b.io\"\ntoo = [\"r.io\"]\n[[rules]]\nto = [\"r.io\"]\n", []string{
			`2: registries[0].domian: unknown key; did you mean "domain"?`, `4: rules[0].frm: unknown key; did you mean "from"?`,
			`8: rules[1].frm: unknown key; did you mean "from"?`, `9: rules[1].too: unknown key; did you mean "to"?`, "10: rules[2].from: is empty"}},
		{"same from by another name", "[[rules]]\nfrom = \"docker.io\"\nto = [\"r.io\"]\n[[rules]]\nfrom = \"index.docker.io\"\ndeny = true\n", []string{`5: rules[1].from: "docker.io" is already defined at FILE:2`}},
		{"same domain", "[[registries]]\ndomain = \"r.io\"\n[[registries]]\ndomain = \"https://R.io/\"\n", []string{`4: registries[1].domain: "r.io" is already defined at FILE:2`}},
		{"no from", "[[rules]]\nto = [\"r.io\"]\n", []string{"1: rules[0].from: is empty; want host"}},
		{"no to", "[[rules]]\nfrom = \"quay.io\"\n", []string{`1: rules[0].to: is empty; want one or more targets, "source", or deny = true`}},
		{"no domain", "[[registries]]\nusername = \"u\"\npassword = \"x\"\n", []string{"1: registries[0].domain: is empty; want host[:port][/path]"}},
		{"bad domain", "[[registries]]\ndomain = \"r.io/p:1\"\n", []string{`2: registries[0].domain: "r.io/p:1" has a tag or a digest`}},
		{"bad target", "[[rules]]\nfrom = \"quay.io\"\nto = [\"https://r.io\", \"R.io/X\"]\n", []string{`3: rules[0].to: "https://r.io" has a scheme`, `3: rules[0].to: "R.io/X" has upper-case letters`}},
		{"sub-domains and path", "[[rules]]\nfrom = \"*.gcr.io/a\"\nto = [\"r.io\"]\n", []string{`2: rules[0].from: "*.gcr.io/a" has a path after *.host`}},
		{"bad path mode", good + "path = \"half\"\n", []string{`4: rules[0].path: "half" is not known; want "rest", "full" or "base"`}},
		{"deny and to", good + "deny = true\n", []string{"4: rules[0].deny: excludes to; remove one of them"}},
		{"realm with path", "[[registries]]\ndomain = \"r.io\"\ntoken_realms = [\"a.io\", \"a.io/token\"]\n", []string{"3: registries[0].token_realms: element 2 is not a host"}},
		{"proxy", "[[registries]]\ndomain = \"r.io\"\nproxy = \"ftp://p\"\n", []string{`3: registries[0].proxy: has the scheme "ftp"; want http, https or socks5`}},
		{"all at once, in the order of lines", "x = 1\n[[rules]]\nfrom = \"quay.io\"\n[[registries]]\ndomain = \"\"\n[[rules]]\nto = [\"r.io\"]\n", []string{
			"1: x: unknown key", "2: rules[0].to: is empty", "5: registries[0].domain: is empty", "6: rules[1].from: is empty"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := problemsOf(t, tt.text)
			if len(got) != len(tt.want) {
				t.Fatalf("got %d problems, want %d:\n%s", len(got), len(tt.want), strings.Join(got, "\n"))
			}
			for i, want := range tt.want {
				want, where, atFile := strings.Cut(want, "FILE")
				if !strings.HasPrefix(got[i], want) || atFile && !strings.HasSuffix(got[i], "berth.toml"+where) {
					t.Errorf("got %q, want %q", got[i], want+where)
				}
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"one registry", "[[registries]]\ndomain = \"r.io\"\n", ""},
		{"the rule for * is implied", "[[registries]]\ndomain = \"r.io\"\n[[registries]]\ndomain = \"s.io\"\n", "no rule for *: references that no rule matches go to the first registry, r.io;"},
		{"the rule for * is there", "[[registries]]\ndomain = \"r.io\"\n[[registries]]\ndomain = \"s.io\"\n[[rules]]\nfrom = \"*\"\nto = [\"s.io\"]\n", ""},
		{"B24", "[[rules]]\nfrom = \"a.io\"\nto = [\"b.io\"]\n[[rules]]\nfrom = \"b.io\"\nto = [\"a.io\"]\n", "the rules for a.io and b.io lead to each other; a reference is rewritten once"},
		{"B23", "[[rules]]\nfrom = \"a.io\"\nto = [\"a.io\"]\n", ""},
		{"SEC-26", "[[registries]]\ndomain = \"r.io\"\ninsecure = true\n", "registry r.io: insecure = true: its certificate is not checked"},
		{"exchanged letters", "[[rules]]\nfrom = \"grc.io/images\"\nto = [\"r.io\"]\n", "2: rules[0].from: is for the host grc.io; was gcr.io meant?"},
		{"a letter too many", "[[rules]]\nfrom = \"*.qquay.io\"\nto = [\"r.io\"]\n", "2: rules[0].from: is for the host qquay.io; was quay.io meant?"},
		{"well known, and like another", "[[rules]]\nfrom = \"ghcr.io\"\nto = [\"r.io\"]\n", ""},
		{"like none", "[[rules]]\nfrom = \"ocker.iox\"\nto = [\"r.io\"]\n", ""},
		{"a target under no registry", "[[registries]]\ndomain = \"r.io/p\"\n[[rules]]\nfrom = \"quay.io\"\nto = [\"r.io/p\", \"source\", \"r.io/px\"]\n[[rules]]\nfrom = \"gcr.io\"\nto = [\"r.io/px\"]\n",
			"5: rules[0].to: r.io/px is under no registry of the configuration: it is asked without a credential"},
		{"targets, and no registry", "[[rules]]\nfrom = \"quay.io\"\nto = [\"r.io\"]\n", ""},
		{"http without insecure", "[[registries]]\ndomain = \"http://r.io\"\n", "registry r.io: http:// has no effect; set insecure = true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			loaded, err := config.LoadFile(write(t, "berth.toml", tt.text))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range loaded.Registries {
				if r.Endpoint.PlainHTTP && !r.Endpoint.Insecure { // SEC-21
					t.Errorf("got plain HTTP expected of %s, want it with insecure alone", r.Domain)
				}
			}
			got := strings.Join(loaded.Warnings, "\n")
			if _, rest, ok := strings.Cut(got, "berth.toml:"); ok {
				got = rest
			}
			if !strings.HasPrefix(got, tt.want) || (tt.want == "") != (got == "") || strings.Contains(got, "\n") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
