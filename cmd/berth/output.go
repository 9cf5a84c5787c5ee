// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
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

// warning returns a context whose log is what cmd prints on standard error: what the daemon would log, such as that others can
// read a password, is a warning of the command as any other.
func warning(ctx context.Context, cmd *cli.Command) context.Context {
	l := logrus.New()
	l.SetOutput(cmd.Root().ErrWriter)
	l.SetFormatter(lines{})
	l.SetLevel(logrus.WarnLevel)
	if isQuiet(cmd) && cmd.String("output") != "json" {
		l.SetOutput(io.Discard)
	}
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// lines formats an entry of a log as berth says it. Fields but the error are those of one request of many.
type lines struct{}

func (lines) Format(e *logrus.Entry) ([]byte, error) {
	line := e.Level.String() + ": " + e.Message
	if err, ok := e.Data[logrus.ErrorKey]; ok {
		line = fmt.Sprintf("%s: %v", line, err)
	}
	return []byte(line + "\n"), nil
}

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

// written is standard output, and the first error that it met: a report that ends where the disk is full is no report.
type written struct {
	io.Writer
	err error
}

func (w *written) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if w.err == nil {
		w.err = err
	}
	return n, err
}
