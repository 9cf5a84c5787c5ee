// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package localpull knows the settings that make CRI pull past containerd's transfer service, and so past the rules.
//
// Containerd 2.4.2 has eight of them (CheckLocalImagePullConfigs, and use_local_image_pull itself). What has an equivalent
// with the transfer service is taken over; what has none is refused. See [Check].
package localpull

import (
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Section is the table of config.toml that holds the settings.
const Section = "io.containerd.cri.v1.images"

// stockDownloads is the only max_concurrent_downloads with which CRI uses the transfer service.
const stockDownloads = 3

// Settings are those of CRI's image service that matter here.
type Settings struct {
	Snapshotter                string `toml:"snapshotter"`
	DisableSnapshotAnnotations bool   `toml:"disable_snapshot_annotations"`
	DiscardUnpackedLayers      bool   `toml:"discard_unpacked_layers"`
	MaxConcurrentDownloads     int    `toml:"max_concurrent_downloads"`
	ImagePullWithSyncFS        bool   `toml:"image_pull_with_sync_fs"`
	UseLocalImagePull          bool   `toml:"use_local_image_pull"`
	Registry                   struct {
		Mirrors map[string]any `toml:"mirrors"`
		Configs map[string]any `toml:"configs"`
		Auths   map[string]any `toml:"auths"`
	} `toml:"registry"`
	RuntimePlatforms map[string]struct {
		Snapshotter string `toml:"snapshotter"`
	} `toml:"runtime_platforms"`
}

// Read takes the settings from CRI's configuration, whose type is containerd's own secret.
func Read(config any) (Settings, error) {
	text, err := toml.Marshal(config)
	if err != nil {
		return Settings{}, fmt.Errorf("read CRI's settings: %w", err)
	}
	var s Settings
	if err := toml.Unmarshal(text, &s); err != nil {
		return Settings{}, fmt.Errorf("read CRI's settings: %w", err)
	}
	return s, nil
}

// Finding is one setting that would make CRI pull past the rules.
type Finding struct {
	// Section is [Section] or [RuntimeSection], and Key is the setting below it.
	Section, Key string
	// Refused is set when there is no equivalent.
	Refused bool
	// Text says what is done about it or, when refused, what to do.
	Text string
}

func (f Finding) String() string {
	return fmt.Sprintf("plugins.%q.%s: %s", f.Section, f.Key, f.Text)
}

// Check returns what would make CRI pull past the rules. lazy reports whether a snapshotter fetches layers lazily, from the
// host that the image's name says.
func (s Settings) Check(lazy func(snapshotter string) bool) []Finding {
	var findings []Finding
	taken := func(key, text string) { findings = append(findings, Finding{Section: Section, Key: key, Text: text}) }
	refused := func(key, text string) {
		findings = append(findings, Finding{Section: Section, Key: key, Refused: true, Text: text})
	}

	for _, snapshotter := range s.snapshotters() {
		if lazy(snapshotter) {
			refused("snapshotter", lazyText(snapshotter))
		}
	}
	for _, table := range []struct {
		key    string
		values map[string]any
	}{{"registry.mirrors", s.Registry.Mirrors}, {"registry.configs", s.Registry.Configs}, {"registry.auths", s.Registry.Auths}} {
		if len(table.values) > 0 {
			refused(table.key, "CRI would pull past the rules; say the same as [[registries]] and [[rules]] of Berth, or as hosts.toml below registry.config_path, and remove it")
		}
	}
	if s.UseLocalImagePull {
		taken("use_local_image_pull", "taken over: CRI pulls through the transfer service")
	}
	if !s.DisableSnapshotAnnotations {
		taken("disable_snapshot_annotations", "taken over: a local snapshotter has no use for annotations")
	}
	if s.DiscardUnpackedLayers {
		taken("discard_unpacked_layers", "taken over: layers that are unpacked are discarded by Berth")
	}
	switch {
	case s.MaxConcurrentDownloads <= 0:
		taken("max_concurrent_downloads", "taken over: downloads are not limited")
	case s.MaxConcurrentDownloads != stockDownloads:
		taken("max_concurrent_downloads", fmt.Sprintf("taken over: the limit of %d holds for every pull", s.MaxConcurrentDownloads))
	}
	if s.ImagePullWithSyncFS {
		taken("image_pull_with_sync_fs", "taken over: layers are always synced")
	}
	return findings
}

func lazyText(snapshotter string) string {
	return fmt.Sprintf("%q fetches layers itself, from the host that the image's name says; use a local snapshotter such as overlayfs", snapshotter)
}

func (s Settings) snapshotters() []string {
	names := []string{s.Snapshotter}
	for _, platform := range s.RuntimePlatforms {
		if platform.Snapshotter != "" && platform.Snapshotter != s.Snapshotter {
			names = append(names, platform.Snapshotter)
		}
	}
	return names
}

// TakeOver changes CRI's configuration so that it pulls through the transfer service.
func TakeOver(config any) error {
	stock := strings.Join([]string{
		"use_local_image_pull = false",
		"disable_snapshot_annotations = true",
		"discard_unpacked_layers = false",
		fmt.Sprintf("max_concurrent_downloads = %d", stockDownloads),
		"image_pull_with_sync_fs = false",
	}, "\n")
	if err := toml.Unmarshal([]byte(stock), config); err != nil {
		return fmt.Errorf("take CRI's settings over: %w", err)
	}
	return nil
}
