// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/plugin"

	"github.com/berth-edge/berth/plugin/localpull"
)

// keepCRIOnRoutes takes over the settings that would make CRI pull past the transfer service, or refuses CRI. Without rules
// CRI keeps those that have no equivalent, and is as stock's until there are rules: see [gated].
func keepCRIOnRoutes(ic *plugin.InitContext, inner initFn) (any, error) {
	r, err := resolverOf(ic)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return inner(ic)
	}
	settings, err := localpull.Read(ic.Config)
	if err != nil {
		return nil, err
	}
	configured := r.State().Configured()
	var refused []error
	var said []string
	for _, f := range settings.Check(func(snapshotter string) bool { return isLazy(ic, snapshotter) }) {
		said = append(said, f.String())
		if f.Refused {
			refused = append(refused, errors.New(f.String()))
		} else {
			log.G(ic.Context).Warn(f.String())
		}
	}
	r.foundCRI(said, len(refused) > 0, configured)
	if len(refused) > 0 && configured {
		return nil, fmt.Errorf("CRI is refused, since it would pull past the rules: %w", errors.Join(refused...))
	}
	if len(refused) > 0 {
		for _, err := range refused {
			log.G(ic.Context).WithError(err).Warn("no rules are configured, so this is left as it is; with rules CRI would be refused")
		}
		if ic, err = gated(ic, r); err != nil {
			return nil, err
		}
		return inner(ic)
	}
	if err := localpull.TakeOver(ic.Config); err != nil {
		return nil, err
	}
	if limit := settings.MaxConcurrentDownloads; limit != 3 {
		r.Downloads.Limit(limit)
	}
	r.Discard.Store(settings.DiscardUnpackedLayers)
	instance, err := inner(ic)
	if err == nil && settings.DiscardUnpackedLayers {
		ic.Meta.Exports["DiscardUnpackedLayers"] = "true" // what other plugins of CRI go by
	}
	return instance, err
}

// isLazy reports whether a snapshotter asks for the annotations with which it fetches layers itself.
func isLazy(ic *plugin.InitContext, snapshotter string) bool {
	p := ic.Plugins().Get(plugins.SnapshotPlugin, snapshotter)
	return p != nil && p.Meta.Exports["enable_remote_snapshot_annotations"] == "true"
}

// foundCRI notes what is said of CRI's settings, whether they would take it past rules, and whether there were rules then.
func (r *Resolver) foundCRI(said []string, past, configured bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cri, r.criIsPast, r.criIsAbsent = said, past, past && configured
}
