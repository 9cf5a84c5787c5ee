// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/cmd/berth/mirror"
)

func imageCheckCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "look whether images are where they will be pulled from; exit status 1 if any is not",
		ArgsUsage: "[REF…]",
		Description: "Goes along the route of each image, with the registries, credentials and certificates that a node has, and reads its manifest.\n" +
			"The registry that a reference names counts only if no other target stands before it." + wantedHelp + examples(
			"berth check --config /etc/berth/registry.toml -f manifests/",
			"helm template ./chart | berth check --output json -f -",
		),
		Flags:  append(imageFlags("platform that the images are for, such as linux/arm64; this machine's by default"), outputFlag()),
		Action: checkImages,
	}
}

func checkImages(ctx context.Context, cmd *cli.Command) error {
	output, refs, m, err := imageCommand(ctx, cmd)
	if err != nil {
		return err
	}
	found := m.Check(ctx, refs)
	missing := 0
	for _, f := range found {
		if f.Target == nil {
			missing++
		}
	}
	w := cmd.Root().Writer
	if output == "json" {
		err = printJSON(w, checkedJSON(refs, found))
	} else {
		printChecked(w, refs, found, missing, isQuiet(cmd))
	}
	if err == nil && missing > 0 {
		err = errFault
	}
	return err
}

func printChecked(w io.Writer, refs []string, found []mirror.Found, missing int, quiet bool) {
	for i, f := range found {
		switch {
		case f.Target != nil && quiet:
			continue
		case f.Target != nil:
			fmt.Fprintf(w, "present  %s\n  %s  %s  %s\n", refs[i], f.Target.Pull, f.Digest, bytesText(f.Size))
		case f.Route.Err != nil:
			fmt.Fprintf(w, "refused  %s\n  %v\n", refs[i], f.Route.Err)
		default:
			fmt.Fprintf(w, "%-7s  %s\n", word(f.Failures), refs[i])
		}
		for _, failure := range f.Failures {
			fmt.Fprintf(w, "  %v\n", failure)
		}
	}
	if !quiet {
		fmt.Fprintf(w, "%s: %d present, %d not\n", count(len(refs), "image"), len(refs)-missing, missing)
	}
}

// word sums up why an image is nowhere: "missing" if that is all that is wrong.
func word(failures []mirror.Failure) string {
	for _, f := range failures {
		if f.Cause != mirror.Missing {
			return "failed"
		}
	}
	return "missing"
}

// checkedImage is one element of what `berth check --output json` prints.
type checkedImage struct {
	Ref      string        `json:"ref"`
	Named    string        `json:"named"`
	Rule     string        `json:"rule"`
	Present  bool          `json:"present"`
	Pull     string        `json:"pull"`
	Registry string        `json:"registry"`
	Digest   string        `json:"digest"`
	Size     int64         `json:"size"`
	Failures []failureJSON `json:"failures"`
	Error    string        `json:"error"`
}

type failureJSON struct {
	Pull     string `json:"pull"`
	Registry string `json:"registry"`
	Cause    string `json:"cause"`
	Error    string `json:"error"`
}

func checkedJSON(refs []string, found []mirror.Found) []checkedImage {
	out := make([]checkedImage, len(found))
	for i, f := range found {
		c := checkedImage{Ref: refs[i], Rule: f.Route.Rule, Present: f.Target != nil, Digest: f.Digest.String(), Size: f.Size, Failures: []failureJSON{}}
		if f.Route.Named != nil {
			c.Named = f.Route.Named.String()
		}
		if f.Target != nil {
			c.Pull, c.Registry = f.Target.Pull.String(), f.Target.Domain()
		}
		for _, failure := range f.Failures {
			c.Failures = append(c.Failures, failureJSON{failure.Target.Pull.String(), failure.Target.Domain(), string(failure.Cause), failure.Err.Error()})
		}
		if f.Route.Err != nil {
			c.Error = f.Route.Err.Error()
		}
		out[i] = c
	}
	return out
}
