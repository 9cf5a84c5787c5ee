// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
)

// Kind is the kind of a target.
type Kind string

const (
	// KindBundle is a bundle of this machine, see [Bundles].
	KindBundle Kind = "bundle"
	// KindRegistry is an external registry: the target of a rule.
	KindRegistry Kind = "registry"
	// KindSource is the registry that the reference names.
	KindSource Kind = "source"
)

// A Target is one place that an image can be pulled from.
type Target struct {
	Kind Kind
	// Pull is the reference that is asked for there.
	Pull reference.Named
	// Registry is the configured registry that Pull lies under, or nil. With nil the pull is the client's own.
	Registry *Registry
	// Bundled is the image in its bundle, nil for any other kind.
	Bundled *Bundled

	endpoint *endpoint.Endpoint // of Registry; shared by every pull
}

// A Route is the ordered targets for one reference. A pull takes the first that has the image.
type Route struct {
	// Ref is the reference as the user wrote it.
	Ref string
	// Named is Ref parsed and normalised, nil if it does not parse.
	Named reference.Named
	// Rule is the From of the rule that applies: "*" for the implied rule too, "" for none.
	Rule string
	// Targets are in the order in which they are tried; never empty unless Err is set.
	Targets []Target
	// Err is why there is no route: the reference does not parse, a rule denies it, or it cannot be rewritten.
	Err error
}

// MarshalJSON writes the route in the schema of `berth explain --output json`.
func (r Route) MarshalJSON() ([]byte, error) {
	type target struct {
		Kind       Kind   `json:"kind"`
		Pull       string `json:"pull"`
		Registry   string `json:"registry"`
		Credential string `json:"credential"`
		TLS        string `json:"tls"`
	}
	out := struct {
		Ref     string   `json:"ref"`
		Named   string   `json:"named"`
		Rule    string   `json:"rule"`
		Targets []target `json:"targets"`
		Error   string   `json:"error"`
	}{Ref: r.Ref, Rule: r.Rule, Targets: []target{}}
	if r.Named != nil {
		out.Named = r.Named.String()
	}
	if r.Err != nil {
		out.Error = r.Err.Error()
	}
	for _, t := range r.Targets {
		out.Targets = append(out.Targets, target{t.Kind, t.Pull.String(), t.Domain(), t.Credential(), t.TLS()})
	}
	return json.Marshal(out)
}

// Endpoint returns how the target's registry is reached, nil if that is not configured.
func (t Target) Endpoint() *endpoint.Endpoint { return t.endpoint }

// Domain returns the domain of the target's registry, the path of its bundle, or "" for a registry that is not
// configured.
func (t Target) Domain() string {
	switch {
	case t.Bundled != nil:
		return t.Bundled.Path
	case t.Registry != nil:
		return string(t.Registry.Domain)
	}
	return ""
}

// Name is what the operator calls the target's registry, "" for nothing.
func (t Target) Name() string {
	if t.Registry == nil || t.Bundled != nil {
		return ""
	}
	return t.Registry.Name
}

// Credential says what authenticates the pull: "none", "client", or what the registry is configured with. What a
// client hands over for one registry goes to no other, so a rewritten target never has "client".
func (t Target) Credential() string {
	switch {
	case t.Registry != nil && t.Registry.Credential.Kind() != "none":
		return t.Registry.Credential.Kind()
	case t.Kind == KindSource:
		return "client"
	}
	return "none"
}

// TLS says how the target's certificate is checked: "system", "custom", "insecure" or "http"; "" for a bundle.
func (t Target) TLS() string {
	switch {
	case t.Bundled != nil:
		return ""
	case t.Registry != nil:
		return t.Registry.Endpoint.TLS()
	}
	return "system"
}

// Routes finds the route of a reference. It is immutable and safe for concurrent use; a changed configuration
// makes new Routes. The zero value leaves every reference alone.
type Routes struct {
	config Config
	rules  []Rule

	exact    map[string]int    // From of a prefix, tag or digest rule
	suffix   map[string]int    // ".gcr.io" of "*.gcr.io"
	any      int               // index of the rule for "*", -1 if there is none
	digests  bool              // whether any rule names a digest
	tags     bool              // whether any rule names a tag
	homes    map[string]Prefix // registry domains and targets: references below them are external already
	domains  map[string]*Registry
	endpoint map[*Registry]*endpoint.Endpoint

	bundles Bundles // nil if there are none
}

// NewRoutes compiles c, whose rules are as [ParseRule] returns them. With registries and no rule for "*" there is
// an implied one to the first registry. Errors are about certificates that are none.
func NewRoutes(c Config) (*Routes, error) { return (&Routes{}).Next(c) }

// Next compiles a changed configuration. Registries that have not changed keep their connections and tokens; those that
// have, or are gone, keep none that no pull of rs uses. A pull of rs goes on as it began.
func (rs *Routes) Next(c Config) (*Routes, error) {
	next, err := compile(c, rs)
	if err != nil {
		return nil, err
	}
	kept := map[*endpoint.Endpoint]bool{}
	for _, e := range next.endpoint {
		kept[e] = true
	}
	for _, e := range rs.endpoint {
		if !kept[e] {
			e.CloseIdle()
		}
	}
	return next, nil
}

func compile(c Config, before *Routes) (*Routes, error) {
	rs := &Routes{
		any:      -1,
		exact:    make(map[string]int, len(c.Rules)),
		suffix:   map[string]int{},
		homes:    map[string]Prefix{},
		domains:  map[string]*Registry{},
		endpoint: map[*Registry]*endpoint.Endpoint{},
	}
	c.Registries = slices.Clone(c.Registries)
	rs.config = c
	rs.rules = append(rs.rules, c.Rules...)
	if rule, ok := impliedRule(c); ok {
		rs.rules = append(rs.rules, rule)
	}
	for i, rule := range rs.rules {
		switch {
		case rule.From == "*":
			rs.any = i
		case rule.From[0] == '*':
			rs.suffix[rule.From[1:]] = i
		default:
			rs.exact[rule.From] = i
			rs.digests = rs.digests || isDigest(rule.From)
			rs.tags = rs.tags || isTag(rule.From)
		}
		for _, to := range rule.To {
			if to != Source {
				rs.homes[to] = Prefix(to)
			}
		}
	}
	for i := range c.Registries {
		r := &c.Registries[i]
		rs.homes[string(r.Domain)] = r.Domain
		rs.domains[string(r.Domain)] = r
		r.Endpoint = c.forAll(r.Endpoint)
		if e, ok := before.unchanged(r); ok {
			rs.endpoint[r] = e
			continue
		}
		e, err := endpoint.New(r.Domain.Host(), r.Credential.Keychain(), r.Endpoint)
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w", r.Domain, err)
		}
		rs.endpoint[r] = e
	}
	return rs, nil
}

// unchanged returns the endpoint of a registry that was configured in every way as r is.
func (rs *Routes) unchanged(r *Registry) (*endpoint.Endpoint, bool) {
	before, ok := rs.domains[string(r.Domain)]
	if !ok || before.Endpoint.Roots != r.Endpoint.Roots || !reflect.DeepEqual(before, r) {
		return nil, false
	}
	return rs.endpoint[before], true
}

// forAll returns o with what is configured for every registry.
func (c Config) forAll(o endpoint.Options) endpoint.Options {
	o.DialTimeout, o.StallTimeout, o.Roots = c.DialTimeout, c.StallTimeout, c.Roots
	return o
}

// Implied returns the target of the rule for "*" that c implies, "" if it implies none.
func Implied(c Config) string {
	if rule, ok := impliedRule(c); ok {
		return rule.To[0]
	}
	return ""
}

// impliedRule is the rule for "*" that registries imply.
func impliedRule(c Config) (Rule, bool) {
	if len(c.Registries) == 0 {
		return Rule{}, false
	}
	for _, rule := range c.Rules {
		if rule.From == "*" {
			return Rule{}, false
		}
	}
	return Rule{From: "*", To: []string{string(c.Registries[0].Domain)}, Path: PathFull}, true
}

// Trouble returns why the credential of a registry cannot be read as it is now, false if it can.
func (rs *Routes) Trouble(ctx context.Context, registry Prefix) (credential.Trouble, bool) {
	e, ok := rs.endpoint[rs.domains[string(registry)]]
	if !ok {
		return credential.Trouble{}, false
	}
	return e.Trouble(ctx)
}

// Config returns the configuration that rs was made from.
func (rs *Routes) Config() Config { return rs.config }

// Len returns the number of rules, an implied one included.
func (rs *Routes) Len() int { return len(rs.rules) }

// Route returns the route of ref.
func (rs *Routes) Route(ctx context.Context, ref string) Route {
	route := Route{Ref: ref}
	route.Named, route.Err = ParseNamed(ref)
	if route.Err != nil {
		return route
	}
	rule, ok := rs.Match(route.Named)
	route.Rule = rule.From
	if rule.Deny {
		route.Err = fmt.Errorf("%s is denied by rule %q: %w", route.Named, rule.From, errdefs.ErrPermissionDenied)
		return route
	}
	if bundled, found := rs.bundled(ctx, route.Named); found && !rule.PastBundles {
		route.Targets = []Target{{Kind: KindBundle, Pull: route.Named, Bundled: &bundled}}
	}
	if !ok {
		route.Targets = append(route.Targets, rs.target(KindSource, route.Named))
		return route
	}
	inBundle := route.Targets
	for _, to := range rule.To {
		pull, err := rule.Rewrite(route.Named, to)
		if err != nil && len(inBundle) > 0 {
			route.Targets = inBundle // needs no rewriting
			return route
		}
		if err != nil {
			route.Targets, route.Err = nil, err
			return route
		}
		kind := KindRegistry
		if to == Source || pull.Name() == route.Named.Name() {
			kind = KindSource
		}
		route.Targets = append(route.Targets, rs.target(kind, pull))
	}
	return route
}

// Source returns the registry that a reference names as a target, whatever the rules say.
func (rs *Routes) Source(named reference.Named) Target { return rs.target(KindSource, named) }

func (rs *Routes) target(kind Kind, pull reference.Named) Target {
	t := Target{Kind: kind, Pull: pull}
	for name := pull.Name(); name != ""; name = cutName(name) {
		if r, ok := rs.domains[name]; ok {
			t.Registry, t.endpoint = r, rs.endpoint[r]
			break
		}
	}
	return t
}

// Match returns the rule that applies to named, if any: the most specific that matches. A name that lies under a
// registry or a target is external already, and only a rule at or below that place applies to it.
func (rs *Routes) Match(named reference.Named) (Rule, bool) {
	name := named.Name()
	i, ok := rs.match(name, named)
	if !ok {
		return Rule{}, false
	}
	rule := rs.rules[i]
	if home, ok := rs.home(name); ok && !home.Contains(ruleName(rule.From)) {
		return Rule{}, false
	}
	return rule, true
}

// match looks a name up by every key that can match it, the most specific first. All keys but a digest's and a
// tag's are parts of the name, so that a look-up costs the number of its components and not of the rules.
func (rs *Routes) match(name string, named reference.Named) (int, bool) {
	switch ref := named.(type) {
	case reference.Digested:
		if rs.digests {
			if i, ok := rs.exact[name+"@"+ref.Digest().String()]; ok {
				return i, true
			}
		}
	case reference.Tagged:
		if rs.tags {
			if i, ok := rs.exact[name+":"+ref.Tag()]; ok {
				return i, true
			}
		}
	}
	host := name
	for part := name; part != ""; part = cutName(part) {
		if i, ok := rs.exact[part]; ok {
			return i, true
		}
		host = part
	}
	if len(rs.suffix) > 0 {
		for dot := 0; dot < len(host); dot++ {
			if host[dot] != '.' {
				continue
			}
			if i, ok := rs.suffix[host[dot:]]; ok {
				return i, true
			}
		}
	}
	return rs.any, rs.any >= 0
}

// home returns the longest registry domain or target that name lies under.
func (rs *Routes) home(name string) (Prefix, bool) {
	for ; name != ""; name = cutName(name) {
		if p, ok := rs.homes[name]; ok {
			return p, true
		}
	}
	return "", false
}

// ruleName returns the name of a rule's from, without tag and digest.
func ruleName(from string) string {
	if isDigest(from) || isTag(from) {
		if named, err := reference.ParseNormalizedNamed(from); err == nil {
			return named.Name()
		}
	}
	return from
}
