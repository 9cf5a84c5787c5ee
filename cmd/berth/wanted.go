// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/cmd/berth/workload"
	"github.com/berth-edge/berth/resolver"
)

// fileFlag names what to find images in, as package workload does.
func fileFlag() cli.Flag {
	return &cli.StringSliceFlag{
		Name: "file", Aliases: []string{"f", "pod"},
		Usage: "find images in manifests or a list: a FILE, a DIR and what is below it, or - for standard input; may be repeated",
	}
}

// wantedHelp is what a command with fileFlag says of its arguments.
const wantedHelp = "\nReferences are arguments, or are found in what -f names: Kubernetes manifests of any kind with a pod template, as YAML\n" +
	"or JSON, the output of helm template and of kubeadm config images list, and plain lists with comments after #.\nThe argument - is -f -."

// wantedImages returns the references that a command is about: its arguments as they are, then what is found in files, each image
// once, by the first reference to it. None are all that are in what --from names.
func wantedImages(cmd *cli.Command) ([]string, error) {
	refs, files := slices.Clone(cmd.Args().Slice()), slices.Clone(cmd.StringSlice("file"))
	if slices.Contains(refs, workload.Stdin) {
		refs = slices.DeleteFunc(refs, func(ref string) bool { return ref == workload.Stdin })
		if !slices.Contains(files, workload.Stdin) {
			files = append(files, workload.Stdin)
		}
	}
	for _, ref := range refs {
		info, err := os.Stat(ref)
		switch {
		case err != nil:
		case info.Mode().IsRegular() && workload.IsFileName(ref):
			return nil, usageError{fmt.Errorf("%s is a file, not a reference; to find images in it, give it with -f", ref)}
		case info.IsDir() && (strings.HasSuffix(ref, "/") || strings.HasPrefix(ref, ".") || filepath.IsAbs(ref)): // or it may be both
			return nil, usageError{fmt.Errorf("%s is a directory, not a reference; to find images in it, give it with -f", ref)}
		}
	}
	if len(refs) == 0 && len(files) == 0 {
		if cmd.IsSet("from") {
			return nil, nil
		}
		return nil, usageError{errors.New(cmd.Name + " wants one or more references, or -f with a file that names some")}
	}
	if len(files) == 0 {
		return onceEach(refs), nil
	}
	found, err := workload.Read(files, cmd.Root().Reader)
	for _, image := range found.Images {
		refs = append(refs, image.Ref)
	}
	refs = onceEach(refs)
	if !isQuiet(cmd) {
		noteUnread(cmd.Root().ErrWriter, found, refs)
	}
	if err != nil {
		return nil, err
	}
	return refs, nil
}

// noteUnread says what may name images, other than refs, and was not gone by.
func noteUnread(w io.Writer, found workload.Found, refs []string) {
	for _, path := range found.LeftAlone {
		fmt.Fprintf(w, "note: %s is left alone: of a directory .yaml, .yml, .json and .txt are read\n", path)
	}
	known := map[string]bool{}
	for _, ref := range refs {
		known[leadsTo(ref)] = true
	}
	for _, image := range found.Elsewhere {
		if name := image.Named.String(); !known[name] {
			known[name] = true
			fmt.Fprintf(w, "note: %s: image %s is left alone: it is in no container; name it too if a node pulls it\n", image.Places[0], image.Ref)
		}
	}
}

// onceEach removes references to what one before leads to.
func onceEach(refs []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(refs, func(ref string) bool {
		name := leadsTo(ref)
		again := seen[name]
		seen[name] = true
		return again
	})
}

// leadsTo tells one image from another. A reference that does not parse leads to itself.
func leadsTo(ref string) string {
	named, err := resolver.ParseNamed(ref)
	if err != nil {
		return ref
	}
	return named.String()
}
