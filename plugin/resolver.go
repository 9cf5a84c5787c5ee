// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-edge/berth/plugin/dropin"
	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/strict"
)

// ResolverPlugin is the type of the plugin that decides where images are pulled from.
const ResolverPlugin plugin.Type = "io.containerd.resolver.v1"

// ResolverID is the id of the one plugin of that type, ResolverURI its name in config.toml.
const (
	ResolverID  = "external-registry"
	ResolverURI = string(ResolverPlugin) + "." + ResolverID
)

func init() {
	registry.Register(&plugin.Registration{
		Type: ResolverPlugin,
		ID:   ResolverID,
		// A map, since containerd ignores keys that a struct does not have, and ends on a value of a wrong type without
		// naming the plugin. It is decoded strictly by package config.
		Config: &map[string]any{"config_path": config.DefaultPath},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			values := *ic.Config.(*map[string]any)
			r := NewResolver(strict.Stanza{Name: `plugins."` + ResolverURI + `"`, Values: values})
			prometheus.MustRegister(append(resolver.Collectors(), r)...)
			r.Load(ic.Context)
			go r.Watch(ic.Context)
			return r, nil
		},
	})
}

// StanzaKeys are the keys of the resolver's stanza that hold tables.
var StanzaKeys = []string{"registries", "rules"}

// WarnNotImported warns of drop-ins beside containerd's main file that name our plugins and are not read, and of keys that
// were likely meant for our stanza and have no effect, or are of our stanza and have none, since a later file has them too.
func WarnNotImported(ctx context.Context, mainConfig string) {
	for _, file := range dropin.NotImported(mainConfig, ResolverURI, LoaderURI) {
		log.G(ctx).Warnf("%s is not read: %s does not import it; add imports = [%q]", file, mainConfig, dropin.Pattern(mainConfig))
	}
	files := dropin.Read(mainConfig)
	for _, u := range append(Misplaced(files), files.Replaced(ResolverURI, StanzaKeys...)...) {
		log.G(ctx).Warn(u)
	}
}

// Misplaced returns what was likely meant for one of our stanzas, and has no effect.
func Misplaced(files dropin.Files) []dropin.Unread {
	return append(files.Misplaced(ResolverURI, StanzaKeys...), files.Misplaced(LoaderURI)...)
}

// Resolver holds the configuration in force. Its content never keeps containerd from starting: a mistake is held, and
// every pull is refused with it until it is mended. See [Resolver.Watch] for changes.
type Resolver struct {
	stanza    strict.Stanza
	Downloads resolver.Downloads
	Discard   atomic.Bool // layers that are unpacked may be collected

	loading     sync.Mutex // held while files are read
	mu          sync.Mutex
	bundles     resolver.Bundles // nil if none are offered
	state       State
	change      change
	cri         []string // what was done to CRI's settings
	criIsPast   bool     // CRI would pull past rules: see gated
	criIsAbsent bool     // there were rules at start: there is no CRI until containerd starts again
}

// State is a configuration in force, or why there is none.
type State struct {
	config.Loaded
	// Routes is nil if and only if Err is not.
	Routes *resolver.Routes
	Err    error
	// Since is when the state came into force.
	Since time.Time
	// Generation counts the configurations that came into force since containerd started; it begins with 1.
	Generation uint64
}

// Configured reports whether there are rules, or would be but for a mistake.
func (s State) Configured() bool { return s.Err != nil || s.Loaded.Configured() }

// NewResolver returns a resolver without a state; [Resolver.Load] gives it one.
func NewResolver(stanza strict.Stanza) *Resolver { return &Resolver{stanza: stanza} }

// State returns the state in force.
func (r *Resolver) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Routes returns the routes in force. A change of the files comes into force first, so that one that appears, or is
// mended, is gone by from the next pull on.
func (r *Resolver) Routes(ctx context.Context) (*resolver.Routes, error) {
	r.refresh(ctx, patience)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Err == nil && r.bundles != nil {
		return r.state.Routes.With(r.bundles), nil
	}
	return r.state.Routes, r.state.Err
}

// offer puts bundles in front of the routes.
func (r *Resolver) offer(bundles resolver.Bundles) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bundles = bundles
}

// announce says what came into force.
func (s State) announce(ctx context.Context) {
	for _, w := range s.Warnings {
		log.G(ctx).Warn(w)
	}
	switch {
	case s.Err != nil:
		for _, problem := range strings.Split(s.Err.Error(), "\n") {
			log.G(ctx).WithField("problem", problem).Error("configuration of the resolver cannot be used: pulls are refused until it is mended")
		}
	case s.Loaded.Configured():
		log.G(ctx).WithFields(log.Fields{"registries": len(s.Registries), "rules": len(s.Rules), "files": s.Files, "generation": s.Generation}).
			Info("pulls go along the rules of the resolver")
	default:
		log.G(ctx).Warn("the resolver has no rules: every pull goes where its reference says, as in stock containerd")
	}
}
