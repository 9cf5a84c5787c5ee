// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/urfave/cli/v3"
)

func whereCommand() *cli.Command {
	return &cli.Command{
		Name:      "where",
		Usage:     "say where the images of this node came from; exit status 1 if one that is asked for is not there",
		ArgsUsage: "REF…",
		Description: "Prints from which registry or bundle each image came, by which rule and when, as was noted on the image when it was\n" +
			"pulled or loaded. An image that has no such note was pulled before Berth was there or past it, imported, or tagged.\n" +
			"A reference may also be the id of an image (sha256:…), as crictl images --no-trunc prints it." + examples(
			"berth where registry.k8s.io/pause:3.10",
			"berth where --all --output json",
			"berth where --namespace default docker.io/library/nginx:latest",
		),
		Flags: []cli.Flag{
			addressFlag(),
			&cli.StringFlag{
				Name: "namespace", Aliases: []string{"n"},
				Usage:   "containerd's namespace; k8s.io is kubelet's",
				Value:   kubelets,
				Sources: cli.EnvVars("CONTAINERD_NAMESPACE"),
			},
			&cli.BoolFlag{Name: "all", Usage: "every image of the namespace"},
			outputFlag(),
		},
		Action: where,
	}
}

func where(ctx context.Context, cmd *cli.Command) error {
	output, err := outputOf(cmd)
	if err != nil {
		return err
	}
	refs := cmd.Args().Slice()
	switch {
	case len(refs) == 0 && !cmd.Bool("all"):
		return usageError{errors.New("where wants one or more references, or --all")}
	case len(refs) > 0 && cmd.Bool("all"):
		return usageError{errors.New("where wants references or --all, not both")}
	}
	namespace := cmd.String("namespace")
	stored, err := listImages(ctx, cmd, namespace)
	if err != nil {
		return err
	}
	origins := stored.all()
	if !cmd.Bool("all") {
		origins = nil
		for _, ref := range refs {
			origins = append(origins, stored.find(ref))
		}
	}
	fault := slices.ContainsFunc(origins, func(o origin) bool { return o.Error != "" })
	if w := cmd.Root().Writer; output == "json" {
		err = printJSON(w, origins)
	} else {
		printOrigins(w, origins, namespace, isQuiet(cmd))
	}
	if err == nil && fault {
		err = errFault
	}
	return err
}

// listImages returns what is recorded in a namespace.
func listImages(ctx context.Context, cmd *cli.Command, namespace string) (storedImages, error) {
	d, err := connect(ctx, cmd)
	if err != nil {
		return nil, err
	}
	defer d.close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, namespace), 10*time.Second)
	defer cancel()
	response, err := imagesapi.NewImagesClient(d.conn).List(ctx, &imagesapi.ListImagesRequest{})
	if err := d.said(err); err != nil {
		return nil, fmt.Errorf("list images of namespace %s: %w", namespace, err)
	}
	return response.GetImages(), nil
}

// kubelets is the namespace of kubelet's images.
const kubelets = "k8s.io"

func printOrigins(w io.Writer, origins []origin, namespace string, quiet bool) {
	if len(origins) == 0 && !quiet {
		fmt.Fprintf(w, "no images in namespace %s\n", namespace)
	}
	for _, o := range origins {
		if o.Error == "" && quiet {
			continue
		}
		fmt.Fprintln(w, o.Ref)
		if o.Error != "" {
			fmt.Fprintf(w, "  error: %s in namespace %s\n", o.Error, namespace)
			if namespace == kubelets {
				fmt.Fprintln(w, "  hint: ctr keeps its images in namespace default; see --namespace")
			}
			continue
		}
		if o.Name != o.Ref {
			fmt.Fprintf(w, "  name %s\n", o.Name)
		}
		fmt.Fprintf(w, "  digest %s\n", o.Digest)
		if o.Source == "" {
			fmt.Fprintf(w, "  %s\n", map[string]string{
				fromBundle: "loaded from bundle " + o.Bundle, fromUnknown: "nothing is noted on it: not pulled or loaded by Berth, or unpinned since",
			}[o.From])
			if o.LoadedAt != "" {
				fmt.Fprintf(w, "  at %s\n", o.LoadedAt)
			}
			continue
		}
		fmt.Fprintf(w, "  pulled from %s %s as %s\n", o.From, o.Source, o.PulledAs)
		fmt.Fprintf(w, "  at %s\n", o.PulledAt)
		if o.Rule == "" {
			fmt.Fprintln(w, "  no rule")
		} else {
			fmt.Fprintf(w, "  rule %q\n", o.Rule)
		}
		if o.Bundle != "" && o.Bundle != o.Source {
			fmt.Fprintf(w, "  also in bundle %s\n", o.Bundle)
		}
	}
}
