// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/cmd/berth/workload"
	"github.com/berth-edge/berth/resolver/convert"
	"github.com/berth-edge/berth/resolver/strict"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name:      "convert",
		Usage:     "print the registries of a cloud-config or of a k3s registries.yaml as a file for /etc/berth",
		ArgsUsage: "FILE",
		Description: "The FILE - is standard input. Passwords are not printed: the result names a file for each, which --secrets-dir has written with mode 0600.\n" +
			"Each line that has no equivalent is a warning, and a comment in the result. Exit status 1 if the file has mistakes." + examples(
			"berth config convert /oem/90_custom.yaml",
			"berth config convert --secrets-dir /etc/berth/secrets /etc/rancher/k3s/registries.yaml > /etc/berth/registry.toml",
		),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "secrets-dir", Usage: "write the passwords to files in `DIR`, and name these (without it, " + convert.SecretsDir + " is named and nothing is written)"},
		},
		Action: convertFile,
	}
}

func convertFile(_ context.Context, cmd *cli.Command) error {
	if cmd.Args().Len() != 1 {
		return usageError{errors.New("convert wants one file")}
	}
	written := cmd.IsSet("secrets-dir")
	dir := convert.SecretsDir
	if written {
		given := cmd.String("secrets-dir")
		if given == "" {
			return usageError{errors.New("--secrets-dir is empty; want a directory")}
		}
		var err error
		if dir, err = filepath.Abs(given); err != nil {
			return err
		}
	}
	file := cmd.Args().First()
	if filepath.Ext(file) == ".toml" {
		return fmt.Errorf("%s: is TOML already; convert reads a cloud-config, or a registries.yaml of k3s", file)
	}
	var text []byte
	var err error
	if file == workload.Stdin {
		file = workload.StdinName
		text, err = strict.Read(cmd.Root().Reader)
	} else {
		text, err = strict.ReadFile(file)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	result, err := convert.Convert(file, text, dir, written)
	if err != nil {
		return err
	}
	if written {
		for _, secret := range result.Secrets {
			if err := secret.Write(); err != nil {
				return err
			}
		}
	}
	for _, lost := range result.Lost {
		fmt.Fprintf(cmd.Root().ErrWriter, "warning: %s\n", lost)
	}
	for _, w := range result.Warnings {
		fmt.Fprintf(cmd.Root().ErrWriter, "warning: %s\n", w)
	}
	_, err = cmd.Root().Writer.Write(result.TOML)
	return err
}
