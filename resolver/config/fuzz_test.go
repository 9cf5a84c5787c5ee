// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/strict"
)

// Whatever a file holds, it is a configuration whose rules are normalised and that makes routes, or problems that name the
// file, and never panics.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"", "\xef\xbb\xbf", "\xff\xfe", "[[rules]]\nfrom = \"quay.io\"\nto = [\"r.io\", \"source\"]\npath = \"base\"\n",
		"[[rules]]\nfrom = \"quay.io/bad\"\ndeny = true\n", "rules = [{from = \"*\", to = [\"r.io\"]}]\n", "rules = [[1]]\n", "rules.x = 1\n",
		"[[registries]]\ndomain = \"https://R.io/p/\"\nusername = \"u\"\npassword = \"p\"\ninsecure = true\n",
		"[[registries]]\ndomain = \"[::1]:5000\"\ncertificates = [\"x\"]\ntoken_realms = [\"a\"]\nproxy = \"http://p\"\n",
		"dial_timeout = \"5s\"\nstall_timeout = 5\n", "[rules]\n[[registries.x]]\n[[rules.y]]\n", "\"a.b\".c = 1\n[a]\nb = 1\n[[a.c]]\n",
		"[[rules]]\nfrom = \"*.gcr.io\"\nto = [\"r.io/p\"]\n[[rules]]\nfrom = \"*.GCR.io\"\nto = []\n", "a = [\n\n1979-05-27,\n]\n", "a = '''\n\n'''\nb", "\"a\\nb\" = 1\n", "[[rules]]\nfrom = \"\\u001b\\n\"\n",
	} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, fmt.Sprintf("%d.toml", os.Getpid()))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		strict.Lines(text)
		loaded, err := config.LoadFile(path)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, path+":") {
					t.Errorf("got %q of %q, want a line that begins with the file", line, text)
				}
			}
			return
		}
		for _, rule := range loaded.Rules {
			if again, err := resolver.ParseRule(rule); err != nil || again.From != rule.From {
				t.Errorf("rule %+v parsed again: got %+v, %v", rule, again, err)
			}
		}
		routes, err := resolver.NewRoutes(loaded.Config)
		if err != nil {
			t.Fatal(err)
		}
		routes.Route(t.Context(), "quay.io/a/b:1")
	})
}

// P5 and C12: ten thousand rules.
func BenchmarkLoad(b *testing.B) {
	for _, overlap := range []bool{false, true} {
		var text strings.Builder
		for i := range 10_000 {
			from := fmt.Sprintf("h%d.example.com/team/app", i)
			if overlap { // each below the one of a tenth of its number
				from = "example.com/" + strings.Join(strings.Split(fmt.Sprint(i), ""), "/")
			}
			text.WriteString(rule(from, "r.example.net/all"))
		}
		path := write(b, "berth.toml", text.String())
		b.Run(fmt.Sprintf("10000,overlap=%t", overlap), func(b *testing.B) {
			for b.Loop() {
				loaded, err := config.LoadFile(path)
				if err != nil || len(loaded.Rules) != 10_000 {
					b.Fatal(len(loaded.Rules), err)
				}
				if _, err := resolver.NewRoutes(loaded.Config); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
