// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/cmd/berth/mirror"
	"github.com/berth-edge/berth/resolver"
)

func copyCommand() *cli.Command {
	return &cli.Command{
		Name:      "copy",
		Usage:     "put images that are missing into the registry that they will be pulled from; exit status 1 if any could not be",
		ArgsUsage: "[REF…]",
		Description: "Each image is copied from the registry that its reference names, or from bundles, to the first registry of its route, under the name\n" +
			"that the rules give it. What is there is not sent again, so that a copy that was ended can be begun again. An image that is\n" +
			"pulled from the registry that it names is there already; from a bundle it is copied to that one, if it is configured." + wantedHelp +
			"\nWith --from and neither, it is every image of the bundles." + examples(
			"berth copy --config /etc/berth/registry.toml --referrers -f manifests/",
			"berth copy --from cluster.tar.zst",
		),
		Flags: append(imageFlags("the one platform to copy, such as linux/arm64; all by default"), outputFlag(),
			&cli.StringSliceFlag{
				Name:  "from",
				Usage: "bundle to copy from, in the place of the registries that references name; may be repeated: the first that has an image is taken",
			},
			&cli.BoolFlag{Name: "referrers", Usage: "copy signatures and whatever else refers to an image, too"},
		),
		Action: copyImages,
	}
}

func copyImages(ctx context.Context, cmd *cli.Command) error {
	output, refs, m, err := imageCommand(ctx, cmd)
	if err != nil {
		return err
	}
	ctx, stop := untilStopped(ctx)
	defer stop()
	opts := mirror.CopyOptions{Referrers: cmd.Bool("referrers"), OnePlatform: cmd.String("platform") != ""}
	for _, path := range cmd.StringSlice("from") {
		from, err := mirror.OpenBundle(ctx, path)
		if err != nil {
			return err
		}
		defer from.Close()
		opts.From = append(opts.From, from)
		if opts.Referrers && !from.HasReferrers() && !isQuiet(cmd) {
			fmt.Fprintf(cmd.Root().ErrWriter, "warning: %s holds images only; write it with berth bundle --referrers\n", path)
		}
	}
	if len(refs) == 0 {
		for _, from := range opts.From {
			refs = append(refs, from.Names()...)
		}
		if refs = onceEach(refs); len(refs) == 0 {
			return fmt.Errorf("copy from %s: none of its images has a name; save it again with one", strings.Join(cmd.StringSlice("from"), ", "))
		}
	}
	w := cmd.Root().Writer
	progress := newCopyProgress(w, output == "json" || isQuiet(cmd))
	opts.Progress = progress.show
	lines := &copyLines{w: progress.above(w), refs: refs, quiet: isQuiet(cmd), done: map[int]mirror.Copied{}}
	copied := m.Copy(ctx, refs, opts, func(i int, c mirror.Copied) {
		progress.done(refs[i])
		if output == "text" {
			lines.print(i, c)
		}
	})
	progress.end()
	failed := 0
	for _, c := range copied {
		if c.Err != nil {
			failed++
		}
	}
	if output == "json" {
		err = printJSON(w, copiedJSON(refs, copied))
	} else if !isQuiet(cmd) {
		fmt.Fprintln(w, copySummary(copied, failed))
	}
	if err == nil && failed > 0 {
		err = errFault
	}
	return err
}

// copyLines prints each image as soon as it, and all before it, are done.
type copyLines struct {
	w     io.Writer
	refs  []string
	quiet bool

	mu   sync.Mutex
	done map[int]mirror.Copied
	next int
}

func (l *copyLines) print(i int, c mirror.Copied) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[i] = c
	for ; ; l.next++ {
		c, ok := l.done[l.next]
		if !ok {
			return
		}
		delete(l.done, l.next)
		if c.Err != nil || !l.quiet {
			printCopied(l.w, l.refs[l.next], c)
		}
	}
}

func printCopied(w io.Writer, ref string, c mirror.Copied) {
	fmt.Fprintf(w, "%-7s  %s\n", copyState(c), ref)
	switch {
	case c.Err != nil:
		fmt.Fprintf(w, "  %v\n", c.Err)
	case c.Target == nil:
		fmt.Fprintf(w, "  it is pulled from the registry that it names%s\n", unlessConfigured(c.Route))
	default:
		fmt.Fprintf(w, "  %s  %s  %s sent%s\n", c.Target.Pull, c.Descriptor.Digest, bytesText(c.Sent), besides(c.Referrers))
	}
}

// unlessConfigured says of the route of an image that is put nowhere that its registry is not configured, if it is not.
func unlessConfigured(route resolver.Route) string {
	if slices.ContainsFunc(route.Targets, func(t resolver.Target) bool { return t.Registry != nil }) {
		return ""
	}
	return ", which is not configured"
}

// besides says how many referrers are beside an image, if there are any.
func besides(referrers int) string {
	if referrers == 0 {
		return ""
	}
	return "  " + count(referrers, "referrer")
}

// copyState is how the copy of an image ended, in a word.
func copyState(c mirror.Copied) string {
	switch {
	case c.Err != nil:
		return "failed"
	case c.Target == nil:
		return "skipped"
	case c.Present:
		return "present"
	}
	return "copied"
}

func copySummary(copied []mirror.Copied, failed int) string {
	states := map[string]int{}
	var sent, mounted int64
	for _, c := range copied {
		states[copyState(c)]++
		sent += c.Sent
		mounted += c.Mounted
	}
	return fmt.Sprintf("%s: %d copied, %d present, %d skipped, %d failed; %s sent, %s mounted",
		count(len(copied), "image"), states["copied"], states["present"], states["skipped"], failed, bytesText(sent), bytesText(mounted))
}

// copiedImage is one element of what `berth copy --output json` prints.
type copiedImage struct {
	Ref       string `json:"ref"`
	State     string `json:"state"` // copied, present, skipped or failed
	Pull      string `json:"pull"`
	Registry  string `json:"registry"`
	Digest    string `json:"digest"`
	Sent      int64  `json:"sent"`
	Mounted   int64  `json:"mounted"`
	Referrers int    `json:"referrers"`
	Error     string `json:"error"`
}

func copiedJSON(refs []string, copied []mirror.Copied) []copiedImage {
	out := make([]copiedImage, len(copied))
	for i, c := range copied {
		out[i] = copiedImage{Ref: refs[i], State: copyState(c), Digest: c.Descriptor.Digest.String(), Sent: c.Sent, Mounted: c.Mounted, Referrers: c.Referrers}
		if c.Target != nil {
			out[i].Pull, out[i].Registry = c.Target.Pull.String(), c.Target.Domain()
		}
		if c.Err != nil {
			out[i].Error = c.Err.Error()
		}
	}
	return out
}
