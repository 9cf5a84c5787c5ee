// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Command containerd is containerd with Berth's plugins built in. It replaces the stock binary: its flags, its
// configuration and its data are containerd's own.
package main

import (
	"context"
	"fmt"
	"os"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
	"github.com/containerd/containerd/v2/cmd/containerd/command"
	"github.com/containerd/containerd/v2/version"
	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/plugin"
)

func main() {
	app := command.App()
	cli.VersionPrinter = func(cmd *cli.Command) {
		_, _ = fmt.Fprintf(cmd.Root().Writer, "%s %s %s %s (berth %s)\n", cmd.Name, version.Package, cmd.Version, version.Revision, plugin.Version)
	}
	start := app.Action
	app.Action = func(ctx context.Context, cmd *cli.Command) error {
		plugin.WarnNotImported(ctx, cmd.String("config"))
		return start(ctx, cmd)
	}
	err := plugin.Decorate()
	if err == nil {
		err = app.Run(context.Background(), os.Args)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(1)
	}
}
