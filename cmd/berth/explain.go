// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/plugin"
	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/strict"
)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name:      "explain",
		Usage:     "say where images are pulled from, without pulling",
		ArgsUsage: "[REF…]",
		Description: "Prints the route of each reference: the rule that applies, and the targets in the order in which they are tried.\nIt is the route that a pull goes along. Exit status 1 if any reference has none." +
			wantedHelp + examples(
			"berth explain nginx quay.io/team/app:1",
			"berth explain --config registry.toml --pod deployment.yaml",
			"helm template ./chart | berth explain --output json -f -",
		),
		Flags:  []cli.Flag{configFlag(), fileFlag(), outputFlag()},
		Action: explain,
	}
}

func explain(ctx context.Context, cmd *cli.Command) error {
	output, err := outputOf(cmd)
	if err != nil {
		return err
	}
	refs, err := wantedImages(cmd)
	if err != nil {
		return err
	}
	path := cmd.String("config")
	loaded, main, err := loadConfig(ctx, path)
	if err != nil {
		return err
	}
	routes, err := resolver.NewRoutes(loaded.Config)
	if err != nil {
		return err
	}
	if main != nil && main.disables(plugin.ResolverURI) && !isQuiet(cmd) {
		fmt.Fprintf(cmd.Root().ErrWriter, "warning: no pull goes along these routes: disabled_plugins of %s has %q\n", path, plugin.ResolverURI)
	}
	if main != nil && !main.disables(plugin.LoaderURI) {
		var problems strict.Problems
		settings := plugin.ReadLoader(main.stanza(path, plugin.LoaderURI), &problems)
		if err := problems.Err(); err != nil {
			return err
		}
		routes = routes.With(plugin.Listed(ctx, settings))
	}
	var found []resolver.Route
	fault := false
	for _, ref := range refs {
		route := routes.Route(ctx, ref)
		fault = fault || route.Err != nil
		if output == "json" || route.Err != nil || !isQuiet(cmd) {
			found = append(found, route)
		}
	}
	w := cmd.Root().Writer
	if output == "json" {
		err = printJSON(w, found)
	} else {
		err = printRoutes(w, found)
	}
	if err == nil && fault {
		err = errFault
	}
	return err
}

func printRoutes(w io.Writer, routes []resolver.Route) error {
	for _, r := range routes {
		fmt.Fprintln(w, r.Ref)
		switch {
		case r.Rule != "":
			fmt.Fprintf(w, "  rule %q\n", r.Rule)
		case r.Named != nil:
			fmt.Fprintln(w, "  no rule")
		}
		if r.Err != nil {
			fmt.Fprintf(w, "  error: %v\n", r.Err)
		}
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for i, t := range r.Targets {
			if t.Kind == resolver.KindBundle {
				fmt.Fprintf(table, "  %d.\t%s\t%s\t%s\n", i+1, t.Kind, t.Pull, t.Domain())
				continue
			}
			fmt.Fprintf(table, "  %d.\t%s\t%s\tcredential: %s\ttls: %s\n", i+1, t.Kind, t.Pull, credentialText(t), t.TLS())
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// credentialText names the credential, and the registry that it belongs to.
func credentialText(t resolver.Target) string {
	if c := t.Credential(); c == "none" || c == "client" {
		return c
	}
	return fmt.Sprintf("%s of %s", t.Credential(), t.Domain())
}
