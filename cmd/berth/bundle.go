// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/cmd/berth/mirror"
	"github.com/berth-edge/berth/cmd/berth/workload"
)

func bundleCommand() *cli.Command {
	return &cli.Command{
		Name:      "bundle",
		Usage:     "write images into a bundle, which a node loads without a network; exit status 1 if one is not to be had",
		ArgsUsage: "[REF…]",
		Description: "FILE is an OCI archive; compressed with zstd if its name ends in .zst; an OCI layout directory if it ends in a slash.\n" +
			"Manifests are as they are at their source, so that digests stay valid. It is there once it is whole." + wantedHelp + examples(
			"berth bundle --out cluster.tar.zst --referrers -f manifests/",
			"berth bundle --check cluster.tar.zst",
		),
		Flags: append(imageFlags("the one platform to bundle, such as linux/arm64; all by default"),
			&cli.StringFlag{Name: "out", Aliases: []string{"o"}, Usage: "the bundle to write"},
			&cli.BoolFlag{Name: "referrers", Usage: "bundle signatures and whatever else refers to an image, too"},
			&cli.StringFlag{Name: "output", Usage: "json, or text", Value: "text"}, // -o names the bundle
			&cli.StringFlag{Name: "check", Usage: "read a bundle, and compare all that it holds with its digests; nothing is written"},
		),
		Action: writeBundle,
	}
}

func writeBundle(ctx context.Context, cmd *cli.Command) error {
	out, check := cmd.String("out"), cmd.String("check")
	switch {
	case check != "" && (out != "" || cmd.Args().Len() > 0 || cmd.IsSet("file") || cmd.IsSet("platform") || cmd.IsSet("referrers")):
		return usageError{errors.New("bundle --check takes nothing beside it")}
	case check != "":
		return checkBundle(ctx, cmd, check)
	case out == "":
		return usageError{errors.New("bundle wants --out FILE")}
	case out == workload.Stdin:
		return usageError{errors.New("--out -: a bundle is not written to standard output; name a file")}
	case packedOtherwise(out):
		return usageError{fmt.Errorf("--out %s: a bundle is plain, or compressed with zstd; let its name end in .tar or .tar.zst", out)}
	}
	output, refs, m, err := imageCommand(ctx, cmd)
	if err != nil {
		return err
	}
	ctx, stop := untilStopped(ctx)
	defer stop()
	layout, err := mirror.NewLayout(out)
	if err != nil {
		return err
	}
	defer layout.Discard()
	progress := newCopyProgress(cmd.Root().Writer, output == "json" || isQuiet(cmd))
	opts := mirror.BundleOptions{Progress: progress.show, OnePlatform: cmd.String("platform") != "", Referrers: cmd.Bool("referrers")}
	bundled, err := m.Bundle(ctx, refs, layout, opts, func(i int) { progress.done(refs[i]) })
	progress.end()
	if err != nil {
		return err
	}
	var images []bundledImage
	fault := false
	for i, b := range bundled {
		image := bundledImage{Ref: refs[i], Digest: b.Descriptor.Digest.String(), Referrers: b.Referrers}
		if b.Target != nil {
			image.Pull = b.Target.Pull.String()
		}
		if b.Err != nil {
			image.Error, fault = b.Err.Error(), true
		}
		images = append(images, image)
	}
	if !fault {
		err = layout.Commit()
	}
	if err == nil {
		err = printBundled(cmd, output, out, " is not written", images)
	}
	if err == nil && fault {
		err = errFault
	}
	return err
}

// packedOtherwise reports whether a name is that of a file which is compressed as bundles are not.
func packedOtherwise(name string) bool {
	return slices.Contains([]string{".gz", ".tgz", ".zstd", ".xz", ".bz2", ".lz4", ".zip"}, strings.ToLower(filepath.Ext(name)))
}

// bundledImage is one element of what `berth bundle --output json` prints.
type bundledImage struct {
	Ref       string `json:"ref"`
	Pull      string `json:"pull"`
	Digest    string `json:"digest"`
	Referrers int    `json:"referrers"`
	Error     string `json:"error"`
}

// printBundled prints images; note is what follows the path of the bundle if one failed.
func printBundled(cmd *cli.Command, output, path, note string, images []bundledImage) error {
	w := cmd.Root().Writer
	if output == "json" {
		return printJSON(w, images)
	}
	failed := 0
	for _, image := range images {
		if image.Error != "" {
			failed++
		}
	}
	for _, image := range images {
		switch {
		case image.Error != "":
			fmt.Fprintf(w, "failed   %s\n  %s\n", image.Ref, strings.ReplaceAll(image.Error, "\n", "\n  "))
		case isQuiet(cmd):
		case image.Pull == "":
			fmt.Fprintf(w, "good     %s\n  %s%s\n", image.Ref, image.Digest, besides(image.Referrers))
		case failed > 0: // of which nothing is written
			fmt.Fprintf(w, "found    %s\n  %s  %s\n", image.Ref, image.Pull, image.Digest)
		default:
			fmt.Fprintf(w, "bundled  %s\n  %s  %s%s\n", image.Ref, image.Pull, image.Digest, besides(image.Referrers))
		}
	}
	switch {
	case failed > 0:
		fmt.Fprintf(w, "%s%s: of %s, %d failed\n", path, note, count(len(images), "image"), failed)
	case !isQuiet(cmd):
		fmt.Fprintf(w, "%s: %s\n", path, count(len(images), "image"))
	}
	return nil
}

func checkBundle(ctx context.Context, cmd *cli.Command, path string) error {
	output, err := outputOf(cmd)
	if err != nil {
		return err
	}
	held, err := mirror.CheckBundle(ctx, path)
	if err != nil {
		return err
	}
	var images []bundledImage
	for _, image := range held {
		checked := bundledImage{Ref: image.Name, Digest: image.Target.Digest.String(), Referrers: image.Referrers}
		if image.Err != nil {
			checked.Error = image.Err.Error()
			err = errFault
		}
		images = append(images, checked)
	}
	return errors.Join(printBundled(cmd, output, path, "", images), err)
}
