// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package localpull

import (
	"fmt"
	"maps"
	"slices"

	"github.com/pelletier/go-toml/v2"
)

// RuntimeSection is the table of config.toml that holds CRI's runtimes. Containerd 2.4.2 takes the snapshotter of a runtime
// over into the image service when CRI starts, so that pulls for that runtime unpack with it.
const RuntimeSection = "io.containerd.cri.v1.runtime"

// Runtimes are the snapshotters that CRI's runtimes name, by the runtime. One that names none has "".
type Runtimes map[string]string

// ReadRuntimes takes them from the configuration of CRI's runtime service.
func ReadRuntimes(config any) (Runtimes, error) {
	text, err := toml.Marshal(config)
	var section struct {
		Containerd struct {
			Runtimes map[string]struct {
				Snapshotter string `toml:"snapshotter"`
			} `toml:"runtimes"`
		} `toml:"containerd"`
	}
	if err == nil {
		err = toml.Unmarshal(text, &section)
	}
	if err != nil {
		return nil, fmt.Errorf("read the settings of CRI's runtimes: %w", err)
	}
	runtimes := Runtimes{}
	for name, r := range section.Containerd.Runtimes {
		runtimes[name] = r.Snapshotter
	}
	return runtimes, nil
}

// Check returns the snapshotters that fetch layers lazily, in the order of the runtimes' names. CRI is not refused for one;
// every pull for its runtime is.
func (r Runtimes) Check(lazy func(snapshotter string) bool) []Finding {
	var findings []Finding
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if snapshotter := r[name]; snapshotter != "" && lazy(snapshotter) {
			findings = append(findings, Finding{
				Section: RuntimeSection, Key: fmt.Sprintf("containerd.runtimes.%s.snapshotter", name), Refused: true, Text: lazyText(snapshotter),
			})
		}
	}
	return findings
}
