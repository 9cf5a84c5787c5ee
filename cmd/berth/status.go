// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/plugin/api"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show what a running containerd goes by, and what it loaded; exit status 1 if it refuses pulls, all or those of CRI, or a change of its rules, if a credential cannot be used, or if something could not be loaded",
		Description: "Asks containerd for its versions, the configuration that pulls go by, and how the bundles stand that it loads." + examples(
			"berth status",
			"berth status --verify",
			"berth status --quiet || alert 'images at risk'",
			"berth status --output json | jq .resolver.generation",
		),
		Flags: []cli.Flag{addressFlag(), outputFlag(), &cli.BoolFlag{
			Name: "verify", Usage: "first compare every blob with its digest and everything that is unpacked with its layers, and mend what is damaged",
		}},
		Action: showStatus,
	}
}

func showStatus(ctx context.Context, cmd *cli.Command) error {
	if err := noArguments(cmd, ""); err != nil {
		return err
	}
	output, err := outputOf(cmd)
	if err != nil {
		return err
	}
	d, err := connect(ctx, cmd)
	if err != nil {
		return err
	}
	defer d.close()
	limit := 10 * time.Second
	if cmd.Bool("verify") {
		limit = time.Hour
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := d.Status(ctx, &api.StatusRequest{Verify: cmd.Bool("verify")})
	if err := d.said(err); err != nil {
		return err
	}
	var text bytes.Buffer
	fault := printStatus(&text, s, cmd.Bool("verify"))
	w := cmd.Root().Writer
	if output == "json" {
		err = printJSON(w, reportStatus(s, !fault))
	} else if fault || !isQuiet(cmd) {
		_, err = text.WriteTo(w)
	}
	if err == nil && fault {
		err = errFault
	}
	return err
}

// printStatus reports whether something is wrong.
func printStatus(w io.Writer, s *api.StatusResponse, verified bool) (fault bool) {
	fmt.Fprintf(w, "containerd %s, berth %s\n", s.Containerd, s.Berth)
	if s.Resolver == nil {
		fmt.Fprintln(w, "the resolver is disabled: every pull goes where its reference says")
	} else {
		printResolver(w, s.Resolver)
		fault = s.Resolver.State == api.ResolverStatus_REFUSING || s.Resolver.CriRefused || len(s.Resolver.Refused) > 0 || len(s.Resolver.Credentials) > 0
	}
	if s.Loader != nil {
		fault = printLoader(w, s.Loader) || fault
	}
	for _, d := range s.Damages {
		fmt.Fprintf(w, "namespace %s: %s\n", d.Namespace, d.Text)
		fault = fault || !d.Mended
	}
	if verified && len(s.Damages) == 0 {
		fmt.Fprintln(w, "every blob is as its digest says, and everything that is unpacked is as its layers are")
	}
	return fault
}

func printResolver(w io.Writer, r *api.ResolverStatus) {
	since := r.Since.AsTime().Local().Format(time.RFC3339)
	switch r.State {
	case api.ResolverStatus_CONFIGURED:
		fmt.Fprintf(w, "pulls go along %s to %s, since %s\n", count(int(r.Rules), "rule"), counts(len(r.Registries), "registry", "registries"), since)
	case api.ResolverStatus_REFUSING:
		fmt.Fprintf(w, "pulls are refused since %s, until this is mended:\n", since)
	default:
		fmt.Fprintf(w, "no rules: every pull goes where its reference says, since %s\n", since)
	}
	list := func(title string, lines []string) {
		for _, line := range lines {
			fmt.Fprintf(w, "  %s: %s\n", title, line)
		}
	}
	list("error", r.Problems)
	list("registry", r.Registries)
	list("file", r.Files)
	list("warning", r.Warnings)
	list("cri", r.Cri)
	if len(r.Refused) > 0 {
		fmt.Fprintf(w, "a change is refused since %s, and what was before stays in force, until this is mended:\n", r.RefusedSince.AsTime().Local().Format(time.RFC3339))
		list("error", r.Refused)
	}
	for _, c := range r.Credentials {
		then := "pulls from it fail"
		if c.Kept {
			then = "what it was before stays in use"
		}
		fmt.Fprintf(w, "the credential of %s cannot be used since %s, and %s, until this is mended:\n", c.Registry, c.Since.AsTime().Local().Format(time.RFC3339), then)
		list("error", []string{c.Error})
	}
	if r.CriRefused {
		fmt.Fprintln(w, "PULLS OF CRI ARE REFUSED, since its settings would take them past the rules: mend what is said of cri above, and restart containerd")
	}
}

// printLoader reports whether something could not be loaded.
func printLoader(w io.Writer, l *api.LoaderStatus) (fault bool) {
	if len(l.Problems) > 0 {
		fmt.Fprintln(w, "no bundle is loaded, until this is mended:")
		for _, problem := range l.Problems {
			fmt.Fprintf(w, "  error: %s\n", problem)
		}
		return true
	}
	if len(l.Bundles) == 0 {
		fmt.Fprintf(w, "no bundles in %s\n", strings.Join(l.Paths, ", "))
		return false
	}
	fmt.Fprintf(w, "%s, loaded into namespace %s\n", count(len(l.Bundles), "bundle"), l.Namespace)
	for _, b := range l.Bundles {
		fault = printBundle(w, b) || fault
	}
	for _, name := range l.Departed {
		fmt.Fprintf(w, "  note: %s is of a bundle that has gone, and stays pinned until everything else is loaded\n", name)
	}
	return fault
}

// printBundle reports whether something of the bundle could not be loaded.
func printBundle(w io.Writer, b *api.BundleStatus) (fault bool) {
	fmt.Fprintf(w, "  %s: %s", b.Path, b.State)
	if b.Format != "" {
		fmt.Fprintf(w, ", %s, %s", b.Format, count(len(b.Images), "image"))
	}
	fmt.Fprintln(w)
	for _, i := range b.Images {
		fmt.Fprintf(w, "    %s %s: %s\n", strings.Join(i.Names, ", "), i.Digest, i.State)
		for _, note := range i.Notes {
			fmt.Fprintf(w, "      note: %s\n", note)
		}
	}
	if b.Error != "" {
		for _, line := range strings.Split(b.Error, "\n") {
			fmt.Fprintf(w, "    error: %s\n", line)
		}
	}
	return b.Error != ""
}

func count(n int, what string) string { return counts(n, what, what+"s") }

func counts(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
