// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v3"
)

// outputFlag is of every command that reports. What it prints as JSON is described in docs/schema.
func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "json, or text", Value: "text"}
}

// outputOf returns "json" or "text".
func outputOf(cmd *cli.Command) (string, error) {
	output := cmd.String("output")
	if output != "json" && output != "text" {
		return "", usageError{fmt.Errorf("--output %q is not known; want json or text", output)}
	}
	return output, nil
}

// quietFlag is of every command.
func quietFlag() cli.Flag {
	return &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "as text print only what is wrong: no progress, no notes, and nothing where all is good"}
}

func isQuiet(cmd *cli.Command) bool { return cmd.Bool("quiet") }

// examples are the end of a command's description.
func examples(lines ...string) string {
	return "\n\nExamples:\n  " + strings.Join(lines, "\n  ")
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
