// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The sessions of the README are run, from the directory that it stands in.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	sessions := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllSubmatch(text, -1)
	if len(sessions) == 0 {
		t.Fatal("got no session, want one or more")
	}
	for _, session := range sessions {
		if bytes.HasPrefix(session[1], []byte("$ cat registry.toml\n")) {
			continue // wants registries: integration runs it
		}
		for _, step := range strings.Split("\n"+string(session[1]), "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			args := strings.Fields(command)
			if args[0] != "berth" {
				t.Fatalf("got command %q, want one of berth", command)
			}
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), args, &stdout, &stderr); code != 0 {
				t.Errorf("%s: got exit status %d: %s", command, code, &stderr)
			}
			if got := strings.TrimSpace(stdout.String()); got != strings.TrimSpace(want) {
				t.Errorf("%s:\ngot\n%s\nwant\n%s", command, got, want)
			}
		}
	}
}
