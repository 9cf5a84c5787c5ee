// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Command berth is the operator's side of Berth: it says where an image will be pulled from, checks a configuration, loads
// bundles, and shows what a running containerd goes by. Exit status: 0 good, 1 found a fault, 2 wrong usage.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/cmd/berth/workload"
	"github.com/berth-edge/berth/plugin"
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
	out := &written{Writer: stdout}
	root := app(out, stderr)
	if last := len(args) - 1; last < 1 || args[last] != completionFlag {
		args = dashesLast(root, args)
	} else if completesNothing(root, args[:last]) {
		return 0
	}
	err := root.Run(ctx, args)
	if out.err != nil && (err == nil || errors.Is(err, errFault)) {
		err = out.err
	}
	var usage misuse
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFault):
		return 1
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "error: %v\nhint: see %s --help\n", err, usage.command)
		return 2
	case isNoTopic(err):
		fmt.Fprintf(stderr, "error: %v\nhint: see berth --help\n", err)
		return 2
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintf(stderr, "error: %s\n", line)
	}
	return 1
}

// isNoTopic reports whether err is what urfave/cli says of a topic of help that there is not. Of the errors of a program that berth
// runs, which know an exit status as well, there is none that is not wrapped.
func isNoTopic(err error) bool {
	_, ok := err.(cli.ExitCoder) //nolint:errorlint // see above
	return ok
}

// completionFlag is what the shell's completion calls a command with behind what was typed.
const completionFlag = "--generate-shell-completion"

// completesNothing reports whether what follows args is the value of a flag, or stands behind "--", where urfave/cli would run the
// command: the shell completes files then. What may be the beginning of a flag, as --o is, is no flag yet.
func completesNothing(root *cli.Command, args []string) bool {
	before, last := args[:len(args)-1], args[len(args)-1]
	cmd := root
	for _, arg := range before {
		cmd = cmp.Or(cmd.Command(arg), cmd)
	}
	begun := strings.HasPrefix(last, "--") && len(last) == len("--o")
	return slices.Contains(before, "--") || !begun && takesValue(cmd, last)
}

// dashesLast moves the arguments "-" behind all others: urfave/cli stops at the first, and loses what follows it.
func dashesLast(root *cli.Command, args []string) []string {
	var rest, dashes []string
	for i, arg := range args {
		if arg == workload.Stdin && i > 0 && !takesValue(root, args[i-1]) {
			dashes = append(dashes, arg)
		} else {
			rest = append(rest, arg)
		}
	}
	return append(rest, dashes...)
}

// takesValue reports whether an argument is a flag, of any command, whose value is the next argument.
func takesValue(cmd *cli.Command, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	for _, flag := range cmd.Flags {
		value, ok := flag.(cli.DocGenerationFlag)
		if arg != name && slices.Contains(flag.Names(), name) && ok && value.TakesValue() {
			return true
		}
	}
	return slices.ContainsFunc(cmd.Commands, func(sub *cli.Command) bool { return takesValue(sub, arg) })
}

func app(stdout, stderr io.Writer) *cli.Command {
	return prepared(&cli.Command{
		Name:                            "berth",
		Usage:                           "where containerd takes images from",
		Description:                     "Exit status: 0 good, 1 a fault was found, 2 wrong usage. berth COMMAND --help has examples of each.",
		Writer:                          stdout,
		ErrWriter:                       stderr,
		Version:                         plugin.Version,
		EnableShellCompletion:           true,
		ConfigureShellCompletionCommand: func(cmd *cli.Command) { prepared(cmd).Hidden = false },
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
// may have, others have one value and no more, wrong usage is that of the command, and where arguments are no commands, --help is of the
// command whatever they are.
func prepared(cmd *cli.Command) *cli.Command {
	cmd.DisableSliceFlagSeparator = true
	if len(cmd.Commands) == 0 {
		cmd.HideHelpCommand = true // it would be the one thing that the shell completes
		cmd.CommandNotFound = func(ctx context.Context, cmd *cli.Command, _ string) {
			_ = cli.ShowCommandHelp(ctx, cmd.Lineage()[1], cmd.Name)
		}
	}
	for _, flag := range cmd.Flags {
		if text, ok := flag.(*cli.StringFlag); ok {
			text.OnlyOnce = true
		}
	}
	cmd.OnUsageError = func(_ context.Context, cmd *cli.Command, err error, _ bool) error {
		return misuse{usageError{err}, cmd.FullName()}
	}
	if action := cmd.Action; action != nil {
		cmd.Action = func(ctx context.Context, cmd *cli.Command) error {
			err := action(warning(ctx, cmd), cmd)
			var usage usageError
			if errors.As(err, &usage) {
				return misuse{usage, cmd.FullName()}
			}
			return err
		}
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

// noArguments returns wrong usage if there are arguments; hint says what to do with them, or is "".
func noArguments(cmd *cli.Command, hint string) error {
	if !cmd.Args().Present() {
		return nil
	}
	return usageError{fmt.Errorf("%s takes no argument %q%s", cmd.Name, cmd.Args().First(), hint)}
}

// configFlag names the configuration to read.
func configFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "config", Aliases: []string{"c"},
		Usage: "containerd's config.toml (imports are followed), or a file of registries and rules",
		Value: defaultConfig,
	}
}
