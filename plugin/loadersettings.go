// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"github.com/berth-edge/berth/loader"
	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/strict"
)

// LoaderSettings are the loader's stanza.
type LoaderSettings struct {
	loader.Options
	// Watch loads bundles that appear while containerd runs.
	Watch bool
	// Verify puts bundles to the image verifiers, which registries' images are put to.
	Verify bool
	// HoldReady holds back systemd's READY until bundles are loaded.
	HoldReady bool
}

// The settings that are in force where the stanza says nothing.
var (
	defaultBundlePaths = []string{"/opt/kube-images", "/opt/content/images"}
	defaultWait        = time.Minute
)

// defaultLoaderConfig is what `containerd config default` shows.
func defaultLoaderConfig() *map[string]any {
	return &map[string]any{
		"paths": defaultBundlePaths, "namespace": "k8s.io", "pin": true, "watch": true, "wait": "1m", "verify": false,
		"on_conflict": "replace", "keep_layers": true, "hold_ready": false,
	}
}

const (
	maxWait     = 10 * time.Minute
	maxParallel = 64
)

// ReadLoader reads the loader's stanza. What is wrong with it is added to problems.
func ReadLoader(stanza strict.Stanza, problems *strict.Problems) LoaderSettings {
	t := stanza.Read(problems)
	s := LoaderSettings{
		Options: loader.Options{
			Paths:       defaultBundlePaths,
			Namespace:   "k8s.io",
			Pin:         t.TruthOr("pin", true),
			Parallel:    int(t.Number("parallel", 1, maxParallel)),
			Snapshotter: t.Text("snapshotter"),
			Platform:    platforms.DefaultSpec(),
			Wait:        defaultWait,
			Aliases:     aliases(t),
			Named:       resolver.ParseNamed,
			DropLayers:  !t.TruthOr("keep_layers", true),
		},
		Watch:     t.TruthOr("watch", true),
		Verify:    t.Truth("verify"),
		HoldReady: t.Truth("hold_ready"),
	}
	if t.Has("paths") {
		s.Paths = nil
		for _, path := range t.Texts("paths") {
			switch {
			case !filepath.IsAbs(path):
				t.Problem("paths", "%q is not an absolute path", path)
			case strings.Contains(path, "*"): // it would be a path that is absent, which is fine
				t.Problem("paths", "%q is a pattern; name the folder", path)
			}
			s.Paths = append(s.Paths, filepath.Clean(path))
		}
	}
	if t.Has("namespace") {
		s.Namespace = t.Text("namespace")
		if err := identifiers.Validate(s.Namespace); err != nil {
			t.Problem("namespace", "%q is not a namespace: want letters, digits, -, _ and .", s.Namespace)
		}
	}
	if t.Has("wait") {
		s.Wait = t.Duration("wait", 0, maxWait)
	}
	if s.Parallel == 0 {
		s.Parallel = runtime.GOMAXPROCS(0) + 1 // while one waits for the disk
	}
	if s.Snapshotter == "" {
		s.Snapshotter = defaults.DefaultSnapshotter
	}
	if text := t.Text("platform"); text != "" {
		platform, err := platforms.Parse(text)
		if err != nil {
			t.Problem("platform", "%q is not a platform; want one such as linux/arm64", text)
		}
		s.Platform = platform
	}
	conflict := t.Text("on_conflict")
	if !slices.Contains([]string{"", "replace", "keep"}, conflict) {
		t.Problem("on_conflict", `%q is not known; want "replace" or "keep"`, conflict)
	}
	s.KeepOthers = conflict == "keep"
	t.Unknown()
	return s
}

// aliases reads names that images are wanted under, and the names that they have. They stay as CRI looks them up.
func aliases(t *strict.Table) map[string]string {
	read, spelled := map[string]string{}, map[string]string{}
	parse := func(name string) (named reference.Named, one string, err error) {
		if named, err = reference.ParseNormalizedNamed(name); err != nil {
			return nil, "", err
		}
		pulled, err := resolver.ParseNamed(name)
		if err != nil {
			return nil, "", err
		}
		return reference.TagNameOnly(named), pulled.String(), nil
	}
	pairs := t.Pairs("aliases")
	for _, wanted := range slices.Sorted(maps.Keys(pairs)) {
		from, one, err := parse(wanted)
		if err != nil {
			t.Problem("aliases", "%q is not a reference: %v", wanted, err)
			continue
		}
		to, _, err := parse(pairs[wanted])
		if err != nil {
			t.Problem("aliases", "%q is not a reference: %v", pairs[wanted], err)
			continue
		}
		if before, ok := spelled[one]; ok {
			t.Problem("aliases", "%q is another spelling of %q", wanted, before)
			continue
		}
		spelled[one] = wanted
		read[from.String()] = to.String()
	}
	return read
}
