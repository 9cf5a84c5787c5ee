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

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := app(stdout, stderr).Run(ctx, args)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFault):
		return 1
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "error: %v\nhint: see berth --help\n", err)
		return 2
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintf(stderr, "error: %s\n", line)
	}
	return 1
}

func app(stdout, stderr io.Writer) *cli.Command {
	return wholeValues(&cli.Command{
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
		OnUsageError:                    onUsageError,
		Action:                          noCommand,
		Commands: []*cli.Command{
			explainCommand(),
			{
				Name: "config", Usage: "the configuration",
				OnUsageError: onUsageError,
				Action:       noCommand,
				Commands:     []*cli.Command{checkCommand(), convertCommand()},
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

// wholeValues keeps flags that may be repeated from being cut at commas, which the name of a file may have.
func wholeValues(cmd *cli.Command) *cli.Command {
	cmd.DisableSliceFlagSeparator = true
	for _, sub := range cmd.Commands {
		wholeValues(sub)
	}
	return cmd
}

func onUsageError(_ context.Context, _ *cli.Command, err error, _ bool) error { return usageError{err} }

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
