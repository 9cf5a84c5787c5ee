// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"regexp"
	"strings"
	"sync"
	"unicode"
)

const maxHint = 200

// pattern compiles an expression when it is first used: a daemon that asks no helper need not hold it.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

var (
	// secretPairs are what follows the name of a secret.
	secretPairs = pattern(`(?i)((?:pass|passwd|password|secret|token|key|auth|authorization|credentials?)["']?\s*[:=]\s*|(?:passwd|password|secret|token|bearer|basic)\s+)\S+`)
	// login is the user and the password in an address: that of a proxy comes from the environment.
	login = pattern(`://[^\s/@]*@`)
	// opaque are long words such as base64 or hexadecimal digits are.
	opaque = pattern(`[A-Za-z0-9+/=_-]{32,}`)
	word   = pattern(`[^\s"',:;{}\[\]()=]{4,}`)
)

// printableHint returns the first line of what a helper wrote to its standard error, made fit for an error: without what it
// wrote to its standard output too (where the secret is), without values of its environment and logins of addresses, and
// without words that may be a secret because of what stands before them, or because they are long, or of letters and digits.
func printableHint(stderr, stdout string, env []string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
	for _, said := range word().FindAllString(stdout, -1) {
		line = strings.ReplaceAll(line, said, "***")
	}
	for _, pair := range env {
		if _, value, _ := strings.Cut(pair, "="); value != "" {
			line = strings.ReplaceAll(line, value, "***")
		}
	}
	line = login().ReplaceAllString(line, "://***@")
	line = secretPairs().ReplaceAllString(line, "$1***")
	line = opaque().ReplaceAllString(line, "***")
	line = word().ReplaceAllStringFunc(line, func(w string) string {
		if strings.ContainsFunc(w, unicode.IsDigit) && strings.ContainsFunc(w, unicode.IsLetter) {
			return "***"
		}
		return w
	})
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(line, ""))
	if len(line) > maxHint {
		line = strings.ToValidUTF8(line[:maxHint], "") + "…"
	}
	return line
}
