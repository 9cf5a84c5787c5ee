// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/cmd/berth/mirror"
)

func bundleCommand() *cli.Command {
	return &cli.Command{
		Name:      "bundle",
		Usage:     "write images into a bundle, which a node loads without a network; exit status 1 if one is not to be had",
		ArgsUsage: "[REF…]",
		Description: "FILE is an OCI archive; compressed with zstd if its name ends in .zst; an OCI layout directory if it ends in a slash.\n" +
			"Manifests are as they are at their source, so that digests stay valid. It is there once it is whole.\n\n" +
			"Examples:\n" +
			"  berth bundle --out cluster.tar.zst -f manifests/\n" +
			"  berth bundle --check cluster.tar.zst",
		OnUsageError: onUsageError,
		Flags: append(imageFlags(),
			&cli.StringFlag{Name: "out", Aliases: []string{"o"}, Usage: "the bundle to write"},
			&cli.StringFlag{Name: "check", Usage: "read a bundle, and compare all that it holds with its digests; nothing is written"},
			quietFlag(),
		),
		Action: writeBundle,
	}
}

func writeBundle(ctx context.Context, cmd *cli.Command) error {
	out, check := cmd.String("out"), cmd.String("check")
	switch {
	case check != "" && (out != "" || cmd.Args().Len() > 0):
		return usageError{errors.New("bundle --check takes nothing beside it")}
	case check != "":
		return checkBundle(ctx, cmd, check)
	case out == "":
		return usageError{errors.New("bundle wants --out FILE")}
	}
	refs, err := wantedImages(ctx, cmd)
	if err != nil {
		return err
	}
	m, err := newMirror(ctx, cmd)
	if err != nil {
		return err
	}
	var only *ocispec.Platform
	if platform, given, _ := platformOf(cmd); given {
		only = &platform
	}
	layout, err := mirror.NewLayout(out)
	if err != nil {
		return err
	}
	defer layout.Discard()
	bundled, err := m.Bundle(ctx, refs, layout, only, nil)
	fault := false
	w := cmd.Root().Writer
	for i, b := range bundled {
		switch {
		case b.Err != nil:
			fault = true
			fmt.Fprintf(w, "failed   %s\n  %v\n", refs[i], b.Err)
		case !cmd.Bool("quiet"):
			fmt.Fprintf(w, "bundled  %s\n  %s  %s\n", refs[i], b.Target.Pull, b.Descriptor.Digest)
		}
	}
	if fault {
		return errFault
	}
	if err != nil {
		return err
	}
	if err := layout.Commit(); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: %s\n", out, count(len(refs), "image"))
	return nil
}

func checkBundle(ctx context.Context, cmd *cli.Command, path string) error {
	images, err := mirror.CheckBundle(ctx, path)
	if err != nil {
		return err
	}
	w := cmd.Root().Writer
	for _, image := range images {
		if !cmd.Bool("quiet") {
			fmt.Fprintf(w, "good  %s  %s\n", image.Name, image.Target.Digest)
		}
	}
	fmt.Fprintf(w, "%s: %s\n", path, count(len(images), "image"))
	return nil
}
