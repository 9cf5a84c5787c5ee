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
