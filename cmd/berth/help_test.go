// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v3"
)

// leaves are the commands that do something, by their full names.
func leaves(cmd *cli.Command, name string) map[string]*cli.Command {
	if len(cmd.Commands) == 0 {
		return map[string]*cli.Command{name: cmd}
	}
	all := map[string]*cli.Command{}
	for _, sub := range cmd.Commands {
		for name, leaf := range leaves(sub, name+" "+sub.Name) {
			all[name] = leaf
		}
	}
	return all
}

// The schemas know every state that the loader has.
func TestSchemasHaveEveryState(t *testing.T) {
	code, err := os.ReadFile("../../loader/state.go")
	if err != nil {
		t.Fatal(err)
	}
	states := regexp.MustCompile(`State = ("[a-z ]+")`).FindAllSubmatch(code, -1)
	if len(states) < 9 {
		t.Fatalf("got states %q, want 9 or more", states)
	}
	for _, name := range []string{"load", "status"} {
		text, err := os.ReadFile("../../docs/schema/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		for _, state := range states {
			if strings.Count(string(text), string(state[1])) < 2 {
				t.Errorf("got %s.json without the state %s of a bundle and of an image", name, state[1])
			}
		}
	}
}

// Every command has examples, of flags that it has, and stands in docs/commands.md.
func TestHelpHasExamples(t *testing.T) {
	docs, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	root := app(io.Discard, io.Discard)
	for name, cmd := range leaves(root, "berth") {
		_, text, ok := strings.Cut(cmd.Description, "\n\nExamples:\n")
		if !ok {
			t.Errorf("%s: got a description without examples:\n%s", name, cmd.Description)
			continue
		}
		if !strings.Contains(string(docs), "`"+name) {
			t.Errorf("got docs/commands.md without `%s`", name)
		}
		for line := range strings.Lines(text) {
			_, args, ok := strings.Cut(strings.TrimSpace(line), name)
			if !ok {
				t.Errorf("%s: got example %q, want one of it", name, line)
			}
			for _, flag := range regexp.MustCompile(`(?:^| )--?([a-z][a-z-]*)`).FindAllStringSubmatch(args, -1) {
				if !slices.ContainsFunc(append(cmd.Flags, root.Flags...), func(f cli.Flag) bool { return slices.Contains(f.Names(), flag[1]) }) {
					t.Errorf("%s: got example %q with a flag that it does not have", name, line)
				}
			}
		}
	}
}
