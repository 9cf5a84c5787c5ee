// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Command berth is the operator's side of Berth: it says where an image will be pulled from, checks a configuration, loads
// bundles, and shows what a running containerd goes by. Exit status: 0 good, 1 found a fault, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v3"
)

func main() { os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr)) }

// errFault is returned by a command that found a fault and has said so.
var errFault = errors.New("fault")

// usageError is a command line that cannot be understood.
type usageError struct{ error }

// misuse is a usageError, and the command that it is of.
type misuse struct {
	usageError
	command string // as it is called
}

func (m misuse) Unwrap() error { return m.usageError }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := app(stdout, stderr).Run(ctx, args)
	var usage misuse
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFault):
		return 1
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "error: %v\nhint: see %s --help\n", err, usage.command)
		return 2
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintf(stderr, "error: %s\n", line)
	}
	return 1
}

func app(stdout, stderr io.Writer) *cli.Command {
	return prepared(&cli.Command{
		Name:                            "berth",
		Usage:                           "where containerd takes images from",
		Description:                     "Exit status: 0 good, 1 a fault was found, 2 wrong usage. berth COMMAND --help has examples of each.",
		Writer:                          stdout,
		ErrWriter:                       stderr,
		HideVersion:                     true,
		EnableShellCompletion:           true,
		ConfigureShellCompletionCommand: func(cmd *cli.Command) { cmd.Hidden = false },
		Flags:                           []cli.Flag{quietFlag()},
		ExitErrHandler:                  func(context.Context, *cli.Command, error) {}, // run decides
		Action:                          noCommand,
		Commands: []*cli.Command{
			explainCommand(),
			{
				Name: "config", Usage: "the configuration",
				Action:   noCommand,
				Commands: []*cli.Command{checkCommand(), convertCommand()},
			},
			imageCheckCommand(),
			copyCommand(),
			bundleCommand(),
			statusCommand(),
			loadCommand(),
			unpinCommand(),
			whereCommand(),
		},
	})
}

// prepared sets what is the same for every command: flags that may be repeated are not cut at commas, which the name of a file
// may have, and wrong usage is that of the command.
func prepared(cmd *cli.Command) *cli.Command {
	cmd.DisableSliceFlagSeparator = true
	cmd.OnUsageError = func(_ context.Context, cmd *cli.Command, err error, _ bool) error {
		return misuse{usageError{err}, cmd.FullName()}
	}
	action := cmd.Action
	cmd.Action = func(ctx context.Context, cmd *cli.Command) error {
		err := action(ctx, cmd)
		var usage usageError
		if errors.As(err, &usage) {
			return misuse{usage, cmd.FullName()}
		}
		return err
	}
	for _, sub := range cmd.Commands {
		prepared(sub)
	}
	return cmd
}

func noCommand(_ context.Context, cmd *cli.Command) error {
	if name := cmd.Args().First(); name != "" {
		return usageError{fmt.Errorf("%s has no command %q", cmd.FullName(), name)}
	}
	return cli.ShowSubcommandHelp(cmd)
}

// configFlag names the configuration to read.
func configFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "config", Aliases: []string{"c"},
		Usage: "containerd's config.toml (imports are followed), or a file of registries and rules",
		Value: defaultConfig,
	}
}
