// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/berth-edge/berth/plugin"
	"github.com/berth-edge/berth/plugin/dropin"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/strict"
)

const defaultConfig = "/etc/containerd/config.toml"

// loadConfig reads what --config names. A file with any key of containerd's at its top, or an empty one, is containerd's
// own, whose merged and migrated form containerd itself prints; any other is one of ours. main is nil for a file of ours.
func loadConfig(ctx context.Context, path string) (loaded config.Loaded, main *mainConfig, err error) {
	text, err := os.ReadFile(path)
	if err != nil && !(errors.Is(err, os.ErrNotExist) && path == defaultConfig) {
		return loaded, nil, err
	}
	if isOurs(path, text) {
		loaded, err = config.LoadFile(path)
		return loaded, nil, err
	}
	if err := checkImports(path); err != nil {
		return loaded, nil, err
	}
	main, err = dump(ctx, path)
	if err != nil {
		return loaded, nil, err
	}
	loaded, err = config.Load(main.stanza(path, plugin.ResolverURI))
	var problems strict.Problems
	if err == nil || errors.As(err, &problems) {
		err = append(problems, main.misplaced()...).Err()
	}
	return loaded, main, err
}

// containerdKeys are the keys at the top of containerd's config.toml.
var containerdKeys = []string{
	"version", "root", "state", "temp", "debug", "disabled_plugins", "required_plugins", "plugins", "oom_score", "cgroup",
	"proxy_plugins", "timeouts", "imports", "stream_processors", "grpc", "ttrpc", "metrics", "plugin_dir",
}

// isOurs tells a file of registries and rules from containerd's config.toml. One that does not parse is taken for
// ours, whose reader says where the mistake is.
func isOurs(path string, text []byte) bool {
	if ext := filepath.Ext(path); ext == ".yaml" || ext == ".yml" {
		return true
	}
	var top map[string]any
	if err := toml.Unmarshal(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), &top); err != nil {
		return true
	}
	for _, key := range containerdKeys {
		if _, ok := top[key]; ok {
			return false
		}
	}
	return len(top) > 0
}

// checkImports finds what would keep containerd from reading a file that path imports, in words of ours: its own do not
// name the file. An error is [strict.Problems].
func checkImports(path string) error {
	var problems strict.Problems
	for _, file := range dropin.Imported(path) {
		text, err := os.ReadFile(file)
		if err != nil {
			problems = append(problems, strict.Problem{File: path, Key: "imports", Text: err.Error()})
			continue
		}
		problems = append(problems, strict.Syntax(file, text)...)
	}
	return problems.Err()
}

// mainConfig is what matters here of containerd's configuration.
type mainConfig struct {
	DisabledPlugins []string `toml:"disabled_plugins"`

	Plugins      map[string]any `toml:"plugins"`
	ProxyPlugins map[string]struct {
		Exports map[string]string `toml:"exports"`
	} `toml:"proxy_plugins"`

	files dropin.Files
}

// dump has containerd print its configuration.
func dump(ctx context.Context, path string) (*mainConfig, error) {
	binary, err := containerdBinary()
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "--config", path, "config", "dump")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("read %s with `%s config dump`: %w: %s", path, binary, err, strings.TrimSpace(stderr.String()))
	}
	c := mainConfig{files: dropin.Read(path)}
	if err := toml.Unmarshal(stdout.Bytes(), &c); err != nil {
		return nil, fmt.Errorf("read output of %s config dump: %w", binary, err)
	}
	return &c, nil
}

// containerdBinary is the containerd beside this command, else the one on the path.
func containerdBinary() (string, error) {
	self, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(self), "containerd")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	found, err := exec.LookPath("containerd")
	if err != nil {
		return "", fmt.Errorf("find containerd, to read its configuration: %w; put it beside berth or on the PATH, or name a file of registries and rules with --config", err)
	}
	return found, nil
}

// misplaced returns what was likely meant for us and has no effect. A pull goes without it, with a warning; what a command says or
// does without it is not what was meant.
func (c *mainConfig) misplaced() (problems strict.Problems) {
	for _, u := range plugin.Misplaced(c.files) {
		problems = append(problems, strict.Problem{File: u.File, Line: u.Line, Key: u.Key, Text: u.Text})
	}
	return problems
}

func (c *mainConfig) disables(uri string) bool { return slices.Contains(c.DisabledPlugins, uri) }

// stanza returns one of our tables, with the files and lines that its keys stand in. A later file replaces whole keys of an
// earlier one.
func (c *mainConfig) stanza(path, uri string) strict.Stanza {
	s := strict.Stanza{Name: path, Lines: map[string]int{}, Files: map[string]string{}}
	s.Values, _ = c.Plugins[uri].(map[string]any)
	for _, file := range append([]string{path}, dropin.Imported(path)...) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		lines := strict.Lines(text)
		for key, line := range lines {
			key, ok := strings.CutPrefix(key, "plugins."+uri+".")
			if !ok {
				continue
			}
			top, _, _ := strings.Cut(key, ".")
			top, _, _ = strings.Cut(top, "[")
			if s.Files[top] != file {
				s.Files[top] = file
				maps.DeleteFunc(s.Lines, func(old string, _ int) bool {
					rest, ok := strings.CutPrefix(old, top)
					return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
				})
			}
			s.Lines[key] = line
		}
	}
	return s
}
