// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package cloudconfig_test

import (
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// one is a cloud-config whose single registry has further lines, from line 4.
func one(lines ...string) string {
	return "stylus:\n  registryCredentials:\n    domain: r.example.com\n    " + strings.Join(lines, "\n    ") + "\n"
}

const secret = "hunter2"

// A1, A2, A6, A8, A10, B20, C9, D5: each mistake has its line, the key as the cloud-config has it, and what to write instead;
// and none has anything of a password.
func TestMistakes(t *testing.T) {
	const rules = "stylus:\n  externalRegistries:\n    registryMappingRules:\n      "
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"stars without quotes", one("username: u", "password: ***************"), []string{"5: YAML syntax: text that begins with * or & wants quotes"}},
		{"an alias without quotes", one("username: u", "password: *hunter2"), []string{"5: YAML syntax: an alias (*) of what has no name; text that begins with * wants quotes"}},
		{"a misspelt key", "stylus:\n  registryCredentials:\n    domian: r.io\n", []string{`3: stylus.registryCredentials.domian: unknown key; did you mean "domain"?`}},
		{"a comment", one("username: u", "password: ####"), []string{"5: stylus.registryCredentials.password: is nothing (what begins with # is a comment); want text in quotes"}},
		{"null", one("username: u", "password: null"), []string{"5: stylus.registryCredentials.password: is nothing; want text in quotes"}},
		{"nothing", one("username: u", "password:"), []string{"5: stylus.registryCredentials.password: is nothing (what begins with # is a comment); want text in quotes"}},
		{"an anchor", one("username: u", "password: &hunter2"), []string{"5: stylus.registryCredentials.password: is nothing, since what begins with & is an anchor; want text in quotes"}},
		{"a tag", one("username: u", "password: !hunter2"), []string{"5: stylus.registryCredentials.password: is nothing, since what begins with ! is a tag; want text in quotes"}},
		{"a number", one("username: u", "password: 4711"), []string{"5: stylus.registryCredentials.password: is a number; want text in quotes"}},
		{"a huge number", one("username: u", "password: 99999999999999999999999"), []string{"5: stylus.registryCredentials.password: is a number; want text in quotes"}},
		{"true", one("username: true", `password: "hunter2"`), []string{"4: stylus.registryCredentials.username: is true or false; want text in quotes"}},
		{"a date", one("username: u", "password: 2026-01-01"), []string{"5: stylus.registryCredentials.password: is a date or a time; want text in quotes"}},
		{"a list", one("username: u", "password: [hunter2]"), []string{"5: stylus.registryCredentials.password: is a list; want text in quotes"}},
		{"a mapping", one("username: u", "password: {hunter2}"), []string{"5: stylus.registryCredentials.password: is a table; want text in quotes"}},
		{"a character that is kept", one("username: u", "password: @hunter2"), []string{"5: YAML syntax: a tab before a key, or text that begins with @, % or ` and wants quotes"}},
		{"a colon and a space", one("username: u", "password: hunter2: x"), []string{"5: YAML syntax: a key in a place where none can be"}},
		{"a quote that is not closed", one("username: u", `password: "hunter2`), []string{"5: YAML syntax: a quote is not closed"}},
		{"an escape that is none", one("username: u", `password: "\hunter2"`), []string{`5: YAML syntax: a \ in double quotes that is no escape`}},
		{"a tab", "stylus:\n\tregistryCredentials:\n", []string{"2: YAML syntax: a tab before a key"}},
		{"a key that does not fit", "stylus:\n  a:\n    - b\n   c: 1\n", []string{"2: YAML syntax: a line that does not fit, here or in what begins here"}},
		{"no colon", "#cloud-config\nstylus\nx: 1\n", []string{"3: YAML syntax: a key in a place where none can be"}},
		{"text", "hello\n", []string{"1: is text; want keys and values"}},
		{"a list of all", "- a\n", []string{"1: is a list; want keys and values"}},
		{"a document too many", "a: 1\n---\nb: 1\n", []string{"3: a second document begins (---); want one in a file"}},
		{"UTF-16", "\xff\xfes\x00:\x00", []string{" is UTF-16 text; save it as UTF-8"}},
		{"binary", "\x7fELF\x02\x01\x01\x00\x00", []string{"1: is not text: it has a zero byte"}},
		{"too large", "#" + strings.Repeat("x", 1<<20), []string{" is larger than 1048576 bytes"}},
		{"a section that is text", "stylus: yes\n", []string{"1: stylus: is text; want a table, which has keys of its own"}},
		{"a section twice", "stylus:\nx: 1\nstylus:\n", []string{"3: stylus: is already defined at FILE:1"}},
		{"a key twice", one("username: u", "username: v", "password: p"), []string{"5: stylus.registryCredentials.username: is already defined at FILE:4"}},
		{"a key that is no text", one("? [a]", ": b"), []string{"4: stylus.registryCredentials: has a key that is no text"}},
		{"a merge that is none", one("<<: 1"), []string{"2: stylus.registryCredentials: has a << that is no mapping"}},
		{"a section misspelt", "Stylus:\n", []string{`1: Stylus: unknown key; did you mean "stylus"?`}},
		{"a section in dots", "stylus.registryCredentials: {domain: r.io}\n", []string{"1: stylus.registryCredentials: is one key with a dot in it; write stylus: and below it"}},
		{"registries misspelt", "stylus:\n  externalRegistry: {}\n  registrycredentials: {}\n", []string{
			`2: stylus.externalRegistry: unknown key; did you mean "externalRegistries"?`,
			`3: stylus.registrycredentials: unknown key; did you mean "registryCredentials"?`}},
		{"an unknown key", one("certificate: x"), []string{`4: stylus.registryCredentials.certificate: unknown key; did you mean "certificates"?`}},
		{"an unknown key of several", "stylus:\n  externalRegistries:\n    registryMappingRule: {}\n", []string{
			`3: stylus.externalRegistries.registryMappingRule: unknown key; did you mean "registryMappingRules"?`}},
		{"no list", "stylus:\n  externalRegistries:\n    registries: {domain: r.io}\n", []string{
			"3: stylus.externalRegistries.registries: is a table; want a list, whose elements have keys of their own"}},
		{"a list of texts", "stylus:\n  externalRegistries:\n    registries:\n      - r.io\n", []string{
			"4: stylus.externalRegistries.registries[0]: is text; want a table"}},
		{"no password", one("username: u", `password: ""`), []string{"4: stylus.registryCredentials.username: has no password; add password, in quotes"}},
		{"no user", one(`password: "hunter2"`), []string{"2: stylus.registryCredentials.username: is empty, and there is a password; add the user"}},
		{"two passwords", one("username: u", "password: hunter2", "encodedPassword: b3RoZXI="), []string{"6: stylus.registryCredentials.encodedPassword: stands beside password; keep one of them"}},
		{"no base64", one("username: u", "encodedPassword: hunter2!"), []string{"5: stylus.registryCredentials.encodedPassword: is not base64"}},
		{"no base64, where true says so", one("username: u", "password: hunter2!", "encodedPassword: true"), []string{"5: stylus.registryCredentials.password: is not base64"}},
		{"a number that says so", one("username: u", "password: hunter2", "encodedPassword: 1"), []string{"6: stylus.registryCredentials.encodedPassword: is a number; want text in quotes"}},
		{"text for true", one(`insecure: "true"`), []string{"4: stylus.registryCredentials.insecure: is text; want true or false"}},
		{"no certificate", one("certificates:", "- |", "  -----BEGIN CERTIFICATE-----", "  *********", "  -----END CERTIFICATE-----"), []string{
			"5: stylus.registryCredentials.certificates[0]: no certificate found; want PEM"}},
		{"a certificate without its head line", one("certificates: MIIBhunter2"), []string{"4: stylus.registryCredentials.certificates[0]: is neither PEM text nor an absolute path"}},
		{"a certificate that is a number", one("certificates: [5]"), []string{"4: stylus.registryCredentials.certificates[0]: is a number; want a list of texts"}},
		{"a domain that is none", "stylus:\n  registryCredentials:\n    domain: registry/x\n", []string{`3: stylus.registryCredentials.domain: "registry/x" begins with "registry", which is no host`}},
		{"a domain with a password", "stylus:\n  registryCredentials:\n    domain: https://u:hunter2@r.io\n", []string{`3: stylus.registryCredentials.domain: has an @ in its host`}},
		{"no domain", "stylus:\n  externalRegistries:\n    registries:\n      - username: u\n        password: p\n", []string{`4: stylus.externalRegistries.registries[0].domain: is empty`}},
		{"a rule that is a number", rules + "quay.io: 5", []string{"4: stylus.externalRegistries.registryMappingRules.quay.io: is a number; want text in quotes"}},
		{"a rule to nothing", rules + "quay.io:", []string{"4: stylus.externalRegistries.registryMappingRules.quay.io: is nothing (what begins with # is a comment); want text in quotes"}},
		{"a rule to an empty text", rules + `quay.io: ""`, []string{"4: stylus.externalRegistries.registryMappingRules.quay.io: is empty"}},
		{"a rule of nothing", rules + `"": r.io`, []string{"4: stylus.externalRegistries.registryMappingRules: is empty; want host"}},
		{"a rule to a list", rules + "quay.io: [r.io]", []string{"4: stylus.externalRegistries.registryMappingRules.quay.io: is a list; want text in quotes"}},
		{"C9", rules + "quay.io: main2", []string{`4: stylus.externalRegistries.registryMappingRules.quay.io: "main2" begins with "main2", which is no host`}},
		{"B20", rules + "quay.io: r.io/Upper", []string{`4: stylus.externalRegistries.registryMappingRules.quay.io: "r.io/Upper" has upper-case letters`}},
		{"a rule with a password", rules + "https://u:hunter2@quay.io/x: r.io", []string{"4: stylus.externalRegistries.registryMappingRules.***@quay.io/x: has an @ in its host"}},
		{"a rule with a password, to nothing", rules + "u:hun.ter2:hunter2@quay.io: 5", []string{"4: stylus.externalRegistries.registryMappingRules.***@quay.io: is a number"}},
		{"rules with a password, twice", rules + "u:hunter2@quay.io: r.io\n      u:hunter2@quay.io: r.io", []string{
			"4: stylus.externalRegistries.registryMappingRules.***@quay.io: has an @ in its host", "5: stylus.externalRegistries.registryMappingRules.***@quay.io: is already defined at FILE:4"}},
		{"rules as a list", rules + "- quay.io", []string{"3: stylus.externalRegistries.registryMappingRules: is a list; want a table"}},
		{"a rule twice", rules + "quay.io: r.io\n      Quay.io/: s.io", []string{`5: stylus.externalRegistries.registryMappingRules.Quay.io/: "quay.io" is already defined at FILE:4`}},
		{"a rule twice, on two levels", rules + "quay.io: r.io\n  registryMappingRules: {quay.io: r.io}", []string{`5: stylus.registryMappingRules.quay.io: "quay.io" is already defined at FILE:4`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, "user-data.yaml", tt.text)
			if err == nil {
				t.Fatalf("got no problem, want %q", tt.want)
			}
			all := regexp.MustCompile(`/\S*user-data.yaml`).ReplaceAllString(err.Error(), "FILE")
			got := strings.Split(all, "\n")
			if len(got) != len(tt.want) {
				t.Fatalf("got %d problems, want %d:\n%s", len(got), len(tt.want), all)
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(got[i], "FILE:"+want) {
					t.Errorf("got %q, want %q", got[i], "FILE:"+want)
				}
			}
			if strings.Contains(all, secret) || strings.Contains(all, "4711") {
				t.Errorf("got the secret in %s", all)
			}
		})
	}
}

// An alias repeats what it names: few bytes that stand for very much, or for themselves, are refused at once.
func TestAliasesAreBounded(t *testing.T) {
	var laughs strings.Builder
	laughs.WriteString("a0: &a0 x\n")
	for i := range 9 {
		name := string(rune('0' + i))
		next := string(rune('1' + i))
		laughs.WriteString("a" + next + ": &a" + next + " [" + strings.Repeat("*a"+name+", ", 9) + "*a" + name + "]\n")
	}
	merges := "m0: &m0 {k: v}\n"
	for i := range 26 {
		merges += strings.NewReplacer("N", string(rune('a'+i)), "P", map[bool]string{true: "m0", false: "m" + string(rune('a'+i-1))}[i == 0]).
			Replace("mN: &mN {<<: *P, <<: *P}\n")
	}
	var table strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&table, "k%d: v, ", i)
	}
	for name, text := range map[string]string{
		"again":    "t: &t {" + table.String() + "}\nstylus: {registryCredentials: {" + strings.Repeat("<<: *t, ", 10_000) + "}}\n",
		"many":     laughs.String() + "stylus: {registryCredentials: {certificates: *a9}}\n",
		"merged":   merges + "stylus: {registryCredentials: {<<: *mz}}\n",
		"itself":   "stylus: {externalRegistries: &all {registries: [*all]}}\n",
		"deep":     "stylus: {registryCredentials: " + strings.Repeat("[", 500) + strings.Repeat("]", 500) + "}\n",
		"too deep": "stylus: " + strings.Repeat("[", 100_000),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := load(t, "user-data.yaml", text)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: got no problem, want one", name)
			continue
		}
		if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > 256 {
			t.Errorf("%s: got %d MiB allocated, want far less", name, got)
		}
		if got := strings.Count(err.Error(), "\n"); got > 10 {
			t.Errorf("%s: got %d lines, want a few: %.300s", name, got, err)
		}
		if name != "too deep" && !strings.Contains(err.Error(), "holds too much, or nests too deep") {
			t.Errorf("%s: got %.300s, want one that says that it is too much", name, err)
		}
	}
}
