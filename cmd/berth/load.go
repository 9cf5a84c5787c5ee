// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/plugin/api"
)

func loadCommand() *cli.Command {
	return &cli.Command{
		Name:      "load",
		Usage:     "load bundles into a running containerd; exit status 1 if something could not be loaded",
		ArgsUsage: "FILE|DIR…",
		Description: "Loads docker-save archives, OCI archives and OCI layouts, as containerd does with those of its loader's paths at start.\n" +
			"On a terminal it shows how far it is, unless NO_COLOR is set or TERM is dumb." + examples(
			"berth load app.tar",
			"berth load /media/usb/images",
			"berth load --output json app.tar.zst",
		),
		Flags:  []cli.Flag{addressFlag(), outputFlag()},
		Action: load,
	}
}

func load(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Len() == 0 || slices.Contains(cmd.Args().Slice(), "") { // a script's variable, and not the working directory
		return usageError{errors.New("load wants one or more files or directories")}
	}
	output, err := outputOf(cmd)
	if err != nil {
		return err
	}
	var paths []string
	for _, arg := range cmd.Args().Slice() {
		path, err := filepath.Abs(arg)
		if err != nil {
			return err
		}
		if !utf8.ValidString(path) { // nor can a label name it
			return fmt.Errorf("load %q: its path is not UTF-8; rename it", path)
		}
		paths = append(paths, path)
	}
	d, err := connect(ctx, cmd)
	if err != nil {
		return err
	}
	defer d.close()
	stream, err := d.Load(ctx, &api.LoadRequest{Paths: paths})
	if err := d.said(err); err != nil {
		return err
	}
	w := cmd.Root().Writer
	progress := newProgress(w, output == "json" || isQuiet(cmd))
	defer progress.end()
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("containerd at %s ended before the load did", d.address)
		}
		if err := d.said(err); err != nil {
			return err
		}
		if !response.Done {
			progress.show(response.Bundles)
			continue
		}
		progress.end()
		return printLoaded(cmd, response.Bundles, output)
	}
}

// printLoaded returns errFault if something could not be loaded.
func printLoaded(cmd *cli.Command, bundles []*api.BundleStatus, output string) (err error) {
	w := cmd.Root().Writer
	fault := false
	for _, b := range bundles {
		var text bytes.Buffer
		failed := printBundle(&text, b)
		fault = fault || failed
		if output != "json" && (failed || !isQuiet(cmd)) {
			if _, err := text.WriteTo(w); err != nil {
				return err
			}
		}
	}
	if output == "json" {
		err = printJSON(w, reportBundles(bundles))
	}
	if err == nil && fault {
		err = errFault
	}
	return err
}

func unpinCommand() *cli.Command {
	return &cli.Command{
		Name:        "unpin",
		Usage:       "give loaded images free for kubelet's garbage collection, before Berth is removed",
		Description: "The images stay, and may be collected from then on, as if they had been pulled." + examples("berth unpin --all"),
		Flags:       []cli.Flag{addressFlag(), outputFlag(), &cli.BoolFlag{Name: "all", Usage: "every image that was loaded"}},
		Action:      unpin,
	}
}

// unpinReport is what `berth unpin --output json` prints.
type unpinReport struct {
	Records int64 `json:"records"`
}

func unpin(ctx context.Context, cmd *cli.Command) error {
	if err := noArguments(cmd, ""); err != nil {
		return err
	}
	output, err := outputOf(cmd)
	if err != nil {
		return err
	}
	if !cmd.Bool("all") {
		return usageError{errors.New("unpin wants --all")}
	}
	d, err := connect(ctx, cmd)
	if err != nil {
		return err
	}
	defer d.close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	response, err := d.Unpin(ctx, &api.UnpinRequest{})
	if err := d.said(err); err != nil {
		return err
	}
	switch {
	case output == "json":
		return printJSON(cmd.Root().Writer, unpinReport{response.Images})
	case !isQuiet(cmd):
		fmt.Fprintf(cmd.Root().Writer, "unpinned %s\n", counts(int(response.Images), "record of an image", "records of images"))
	}
	return nil
}
