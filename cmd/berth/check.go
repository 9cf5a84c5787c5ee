// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/plugin"
	"github.com/berth-edge/berth/plugin/dropin"
	"github.com/berth-edge/berth/plugin/localpull"
	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/strict"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "check a configuration; exit status 1 with every mistake on a line of its own",
		Description: "Reads the configuration as containerd does, and reports the settings of CRI that would make it pull past the rules." + examples(
			"berth config check",
			"berth config check --config registry.toml",
			"berth config check --output json --config /etc/containerd/config.toml",
		),
		Flags:  []cli.Flag{configFlag(), outputFlag()},
		Action: check,
	}
}

func check(ctx context.Context, cmd *cli.Command) error {
	if err := noArguments(cmd, "; name the file with --config"); err != nil {
		return err
	}
	output, err := outputOf(cmd)
	if err != nil {
		return err
	}
	path := cmd.String("config")
	loaded, main, err := loadConfig(ctx, path)
	var problems strict.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	if err == nil {
		if _, err := resolver.NewRoutes(loaded.Config); err != nil {
			problems = append(problems, strict.Problem{File: path, Text: err.Error()})
		}
	}
	warnings := loaded.Warnings
	if main != nil {
		p, w := main.check(path, len(problems) > 0 || loaded.Configured())
		problems = append(problems, p...)
		warnings = append(warnings, w...)
	}
	if output == "json" {
		err = printJSON(cmd.Root().Writer, reportCheck(loaded, problems, warnings))
	} else {
		err = printCheck(cmd, loaded, problems, warnings)
	}
	if err == nil && len(problems) > 0 {
		err = errFault
	}
	return err
}

func printCheck(cmd *cli.Command, loaded config.Loaded, problems strict.Problems, warnings []string) (err error) {
	stderr := cmd.Root().ErrWriter
	for _, w := range warnings {
		if !isQuiet(cmd) {
			fmt.Fprintf(stderr, "warning: %s\n", w)
		}
	}
	for _, p := range problems {
		fmt.Fprintf(stderr, "error: %s\n", p)
	}
	switch {
	case len(problems) > 0, isQuiet(cmd):
	case !loaded.Configured():
		_, err = fmt.Fprintln(cmd.Root().Writer, "good, but there are no rules: every pull goes where its reference says")
	default:
		rules := count(len(loaded.Rules), "rule")
		if implied := resolver.Implied(loaded.Config); implied != "" {
			rules += " and the implied one, * to " + implied
		}
		_, err = fmt.Fprintf(cmd.Root().Writer, "good: %s, %s, %s\n", counts(len(loaded.Registries), "registry", "registries"), rules, count(len(loaded.Files), "file"))
	}
	return err
}

func reportCheck(loaded config.Loaded, problems strict.Problems, warnings []string) checkReport {
	report := checkReport{
		Good: len(problems) == 0, Registries: len(loaded.Registries), Rules: len(loaded.Rules), Files: list(loaded.Files),
		Errors: []problemReport{}, Warnings: list(warnings),
	}
	for _, p := range problems {
		report.Errors = append(report.Errors, problemReport{p.File, p.Line, p.Key, p.Text})
	}
	return report
}

// check reports what of containerd's own configuration takes pulls past the rules, or voids what Berth promises.
func (c *mainConfig) check(path string, configured bool) (problems strict.Problems, warnings []string) {
	if configured && c.disables(plugin.ResolverURI) {
		problems = append(problems, strict.Problem{File: path, Key: "disabled_plugins", Text: fmt.Sprintf("has %q, so that no pull goes along the rules; remove it", plugin.ResolverURI)})
	}
	findings, err := c.pastRules()
	if err != nil {
		problems = append(problems, strict.Problem{File: path, Text: err.Error()})
	}
	for _, f := range findings {
		if f.Refused && configured {
			problems = append(problems, strict.Problem{File: path, Text: f.String()})
		} else {
			warnings = append(warnings, f.String())
		}
	}
	if bolt, _ := c.Plugins["io.containerd.metadata.v1.bolt"].(map[string]any); bolt["no_sync"] == true {
		warnings = append(warnings, `plugins."io.containerd.metadata.v1.bolt".no_sync: a power cut may lose images that were pulled; remove it`)
	}
	plugin.ReadLoader(c.stanza(path, plugin.LoaderURI), &problems)
	for _, u := range c.files.Replaced(plugin.ResolverURI, plugin.StanzaKeys...) {
		warnings = append(warnings, u.String())
	}
	for _, file := range dropin.NotImported(path, plugin.ResolverURI, plugin.LoaderURI) {
		warnings = append(warnings, fmt.Sprintf("%s names Berth and is not imported by %s; add imports = [%q]", file, path, dropin.Pattern(path)))
	}
	return problems, warnings
}

// pastRules returns the settings of CRI that would take pulls past the rules. Containerd prints none for a plugin that is
// disabled.
func (c *mainConfig) pastRules() (findings []localpull.Finding, err error) {
	lazy := func(snapshotter string) bool {
		return c.ProxyPlugins[snapshotter].Exports["enable_remote_snapshot_annotations"] == "true"
	}
	var errs []error
	if section, ok := c.Plugins[localpull.Section]; ok {
		settings, err := localpull.Read(section)
		findings, errs = settings.Check(lazy), append(errs, err)
	}
	if section, ok := c.Plugins[localpull.RuntimeSection]; ok {
		runtimes, err := localpull.ReadRuntimes(section)
		findings, errs = append(findings, runtimes.Check(lazy)...), append(errs, err)
	}
	return findings, errors.Join(errs...)
}
