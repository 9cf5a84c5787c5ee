// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/core/introspection"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"
)

// gated returns the context of CRI's images with a gate in front of CRI's own pull, for a node whose rules may come after
// it started. It stands in the introspection service: of all that CRI is given, that alone is used by each pull, before
// anything is asked of a network, and by nothing else. A containerd without that service is not one that Berth knows.
func gated(ic *plugin.InitContext, r *Resolver) (*plugin.InitContext, error) {
	set := plugin.NewPluginSet()
	found := false
	for _, p := range ic.GetAll() {
		if p.Registration.Type == plugins.ServicePlugin && p.Registration.ID == services.IntrospectionService {
			instance, err := p.Instance()
			if err != nil {
				return nil, err
			}
			inner, ok := instance.(introspection.Service)
			if !ok {
				return nil, fmt.Errorf("gate CRI's own pull: %T is not an introspection service", instance)
			}
			registration := p.Registration
			registration.InitFn = func(*plugin.InitContext) (any, error) { return criGate{inner, r}, nil }
			p, found = registration.Init(plugin.NewContext(ic.Context, set, nil)), true
		}
		if err := set.Add(p); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, errors.New("gate CRI's own pull: no introspection service")
	}
	out := plugin.NewContext(ic.Context, set, ic.Properties)
	out.Config, out.RegisterReadiness, out.Meta = ic.Config, ic.RegisterReadiness, ic.Meta
	return out, nil
}

// criGate refuses CRI's own pull once there are rules.
type criGate struct {
	introspection.Service
	resolver *Resolver
}

var _ introspection.Service = criGate{}

// Plugins implements [introspection.Service]. A pull asks it what the snapshotter can do.
func (g criGate) Plugins(ctx context.Context, filters ...string) (*introspectionapi.PluginsResponse, error) {
	if _, err := g.resolver.Routes(ctx); err != nil { // which looks for rules that are new
		return nil, fmt.Errorf("pulls of CRI are refused, since Berth's configuration cannot be used: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	if g.resolver.State().Configured() {
		return nil, fmt.Errorf("%s: %w", criIsRefused, errdefs.ErrFailedPrecondition)
	}
	return g.Service.Plugins(ctx, filters...)
}

// criIsRefused says why CRI pulls nothing, and what to do. `berth config check` and the status name the settings.
const criIsRefused = "pulls of CRI are refused: rules came into force after containerd started, and CRI's settings, which would take its pulls past them, cannot be changed then; restart containerd"
