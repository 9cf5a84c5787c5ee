// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package strict_test

import (
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/strict"
)

// SEC-08: what is wrong with the syntax of a file is said without anything of a value, which may be a password.
func TestSyntaxQuotesNothing(t *testing.T) {
	for _, text := range []string{
		`password = SECRET`, `password = 'one' SECRET`, `password = "a" S`, `password = 1e99999999999`, `password = "\SECRET"`,
		`password = "SECRET`, `password = 2024-13-77`, `password = 0xSECRET`, `password = '''SECRET`, `password = [SECRET]`, "password = \"SEC\x01RET\"",
	} {
		problems := strict.Syntax("f.toml", []byte("a = 1\n"+text+"\n"))
		if len(problems) != 1 || problems[0].Line == 0 {
			t.Errorf("%s: got %v, want one problem, with its line", text, problems)
			continue
		}
		said := problems[0].Text
		for _, secret := range []string{"SECRET", "'S'", "U+0053", "99999", "2024"} {
			if strings.Contains(said, secret) {
				t.Errorf("%s: got %q, with %q in it", text, said, secret)
			}
		}
		t.Log(said)
	}
}

// A6: a file of another encoding, and one that is no text, are called what they are, in TOML as in YAML. A byte order mark of UTF-8
// is none of it.
func TestEncodings(t *testing.T) {
	utf16be := func(s string) (text string) {
		for _, r := range s {
			text += "\x00" + string(r)
		}
		return text
	}
	for _, tt := range []struct{ name, text, want string }{
		{"UTF-8 with a mark", "\xef\xbb\xbf# \u00fc\n", ""},
		{"UTF-16, little endian, with a mark", "\xff\xfe#\x00x\x00\n\x00", "f: is UTF-16 text; save it as UTF-8"},
		{"UTF-16, big endian, with a mark", "\xfe\xff" + utf16be("# x\n"), "f: is UTF-16 text; save it as UTF-8"},
		{"UTF-16, big endian", utf16be("# x\n"), "f: is UTF-16 text; save it as UTF-8"},
		{"UTF-16, little endian", utf16be("# x\n")[1:] + "\x00", "f: is UTF-16 text; save it as UTF-8"},
		{"Latin-1", "# x\n# f\xfcr\n", "f:2: is not UTF-8 text"},
		{"a program", "\x7fELF\x02\x01\x01\x00\x00", "f:1: is not text: it has a zero byte"},
		{"a file that lost its end", "# x\n" + strings.Repeat("\x00", 100), "f:2: is not text: it has a zero byte"},
		{"a file that lost all of it", strings.Repeat("\x00", 100), "f:1: is not text: it has a zero byte"},
	} {
		var yaml strict.Problems
		strict.ParseYAML("f", []byte(tt.text), nil, &yaml)
		for kind, problems := range map[string]strict.Problems{"TOML": strict.Syntax("f", []byte(tt.text)), "YAML": yaml} {
			if got := problems.Error(); got != tt.want {
				t.Errorf("%s as %s: got %q, want %q", tt.name, kind, got, tt.want)
			}
		}
	}
}
