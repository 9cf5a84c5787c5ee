// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/plugin/api"
)

func loadCommand() *cli.Command {
	return &cli.Command{
		Name:         "load",
		Usage:        "load bundles into a running containerd; exit status 1 if something could not be loaded",
		ArgsUsage:    "FILE|DIR…",
		Description:  "Loads docker-save archives, OCI archives and OCI layouts, as containerd does with those of its loader's paths at start.",
		OnUsageError: onUsageError,
		Flags:        []cli.Flag{addressFlag()},
		Action:       load,
	}
}

func load(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Len() == 0 {
		return usageError{errors.New("load wants one or more files or directories")}
	}
	var paths []string
	for _, arg := range cmd.Args().Slice() {
		path, err := filepath.Abs(arg)
		if err != nil {
			return err
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
	progress := newProgress(w)
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
		fault := false
		for _, b := range response.Bundles {
			fault = printBundle(w, b) || fault
		}
		if fault {
			return errFault
		}
		return nil
	}
}

func unpinCommand() *cli.Command {
	return &cli.Command{
		Name:         "unpin",
		Usage:        "give loaded images free for kubelet's garbage collection, before Berth is removed",
		OnUsageError: onUsageError,
		Flags:        []cli.Flag{addressFlag(), &cli.BoolFlag{Name: "all", Usage: "every image that was loaded"}},
		Action: func(ctx context.Context, cmd *cli.Command) error {
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
			fmt.Fprintf(cmd.Root().Writer, "unpinned %s\n", count(int(response.Images), "image"))
			return nil
		},
	}
}
