// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"github.com/berth-edge/berth/resolver/endpoint"
)

// The labels of the leases of pulls. One that is there when containerd starts is of a pull that was killed.
const (
	LeaseLabel       = "io.berth.pull"
	ClientLeaseLabel = "io.berth.pull.client" // id of the lease that the client brought, if it did
	BootLabel        = "io.berth.pull.boot"   // the boot that it was made in, if it is known
)

// leaseExpiry is for a lease that nobody comes back to: containerd was replaced by another.
const leaseExpiry = 24 * time.Hour

// Transferrer is containerd's transfer service with the route of every pull decided by [Routes]. Pushes, imports and
// exports pass through.
type Transferrer struct {
	// Inner is the service that does the work; a pull calls it once for each target that it tries.
	Inner transfer.Transferrer
	// Routes returns the routes in force. An error refuses the pull: it says why there are none.
	Routes func(context.Context) (*Routes, error)
	// Leases and Content are containerd's own.
	Leases  leases.Manager
	Content content.Store
	// Downloads limits downloads in the place of Inner's limit.
	Downloads *Downloads
	// DiscardLayers lets garbage collection take a compressed layer of CRI's that is unpacked.
	DiscardLayers func() bool
	// IsLazy reports whether a snapshotter fetches layers itself, from the host that the image's name says. Pulls along rules
	// are refused for one that does. "" asks about what a client gets that names none. It may be nil.
	IsLazy func(snapshotter string) bool
	// Unpacks is how many layers of one pull are unpacked at once, 0 if Inner limits that itself. See [AcquireUnpack].
	Unpacks int
	// Boot names the boot of the machine, which no client outlives; "" if it is not known.
	Boot string
	// KeepLabels are labels of an image that stay when the same image is stored again under the same name.
	KeepLabels []string

	repeats repeats
}

var _ transfer.Transferrer = (*Transferrer)(nil)

// Transfer implements [transfer.Transferrer].
func (t *Transferrer) Transfer(ctx context.Context, src, dst any, opts ...transfer.Opt) error {
	fetcher, isFetcher := src.(transfer.ImageFetcher)
	storer, isStorer := dst.(transfer.ImageStorer)
	if isStorer && !isFetcher { // an import, or a further name
		return t.Inner.Transfer(ctx, src, &destination{ImageStorer: storer, keep: t.KeepLabels}, opts...)
	}
	if !isFetcher || !isStorer {
		return t.Inner.Transfer(ctx, src, dst, opts...)
	}
	routes, err := t.Routes(ctx)
	if err != nil {
		countRefusal(unusable)
		return fmt.Errorf("pull %s: Berth's configuration cannot be used, so nothing is pulled: %s: %w", imageOf(src), err.Error(), errdefs.ErrFailedPrecondition)
	}
	reg, ok := fetcher.(*registry.OCIRegistry)
	if !ok && !routes.config.Configured() {
		return t.Inner.Transfer(ctx, src, &destination{ImageStorer: storer, keep: t.KeepLabels}, opts...)
	}
	if !ok {
		countRefusal(denied)
		return fmt.Errorf("pull %s: a source of type %T is not one that rules apply to: %w", imageOf(src), src, errdefs.ErrPermissionDenied)
	}
	leased, done, err := t.withLease(ctx)
	if err != nil {
		return fmt.Errorf("pull %s: %w", imageOf(src), err)
	}
	defer done()
	p := &pull{t: t, routes: routes, client: reg, storer: storer, opts: opts}
	p.lease, _ = leases.FromContext(ctx)
	if err := p.run(limitUnpacks(leased, t.Unpacks)); err != nil {
		p.keepFetched(ctx)
		return err
	}
	return p.keep(ctx, p.stored)
}

// imageOf names the image of a transfer's source.
func imageOf(src any) string {
	if named, ok := src.(interface{ Image() string }); ok {
		return named.Image()
	}
	return fmt.Sprint(src)
}

// withLease makes the lease under which every attempt of a pull runs. It is the pull's own also where the client
// brought one: should containerd be killed, the client's would keep what was fetched for a day, or for ever.
func (t *Transferrer) withLease(ctx context.Context) (_ context.Context, done func(), _ error) {
	opts := []leases.Opt{leases.WithRandomID(), leases.WithExpiration(leaseExpiry), leases.WithLabel(LeaseLabel, "true")}
	if t.Boot != "" {
		opts = append(opts, leases.WithLabel(BootLabel, t.Boot))
	}
	if id, ok := leases.FromContext(ctx); ok {
		flat, err := t.isFlat(ctx, id)
		if err != nil {
			return ctx, nil, err
		}
		if flat { // each blob and snapshot has to be added to it
			return ctx, func() {}, nil
		}
		opts = append(opts, leases.WithLabel(ClientLeaseLabel, id))
	}
	lease, err := t.Leases.Create(ctx, opts...)
	if err != nil {
		return ctx, nil, fmt.Errorf("create lease: %w", err)
	}
	return leases.WithLease(ctx, lease.ID), func() {
		if err := t.Leases.Delete(context.WithoutCancel(ctx), lease); err != nil && !errdefs.IsNotFound(err) {
			log.G(ctx).WithError(err).WithField("lease", lease.ID).Warn("delete lease of a pull")
		}
	}, nil
}

// isFlat reports whether a lease keeps nothing that the content added to it refers to. It is an error if there is none.
func (t *Transferrer) isFlat(ctx context.Context, id string) (bool, error) {
	found, err := t.Leases.List(ctx, "id=="+strconv.Quote(id))
	if err != nil {
		return false, fmt.Errorf("find lease %s: %w", id, err)
	}
	if len(found) == 0 {
		return false, fmt.Errorf("find lease %s: %w", id, errdefs.ErrNotFound)
	}
	_, flat := found[0].Labels["containerd.io/gc.flat"]
	return flat, nil
}

// pull is one pull: one route, gone through once.
type pull struct {
	t      *Transferrer
	routes *Routes
	client *registry.OCIRegistry
	storer transfer.ImageStorer
	opts   []transfer.Opt
	lease  string // id of the one that the client brought, "" if it did not

	fetched digest.Digest // of the manifest that was last asked for, "" if none was found
	stored  digest.Digest // of the image, set when run succeeded
}

// keep adds a manifest, and so what that refers to, to the lease that the client brought, if it did.
func (p *pull) keep(ctx context.Context, manifest digest.Digest) error {
	if p.lease == "" {
		return nil
	}
	err := p.t.Leases.AddResource(ctx, leases.Lease{ID: p.lease}, leases.Resource{ID: manifest.String(), Type: "content"})
	if err != nil {
		return fmt.Errorf("keep %s by lease %s: %w", p.client.Image(), p.lease, err)
	}
	return nil
}

// keepFetched keeps what a failed pull did fetch, so that a client that tries again under its lease need not wait for it again.
// One that gave up has its content collected.
func (p *pull) keepFetched(ctx context.Context) {
	if p.lease == "" || ctx.Err() != nil {
		return
	}
	if _, err := p.t.Content.Info(ctx, p.fetched); err != nil {
		return
	}
	if err := p.keep(ctx, p.fetched); err != nil && !errdefs.IsNotFound(err) {
		log.G(ctx).WithError(err).Warn("keep what a failed pull fetched")
	}
}

func (p *pull) run(ctx context.Context) error {
	ref := p.client.Image()
	if named, err := ParseNamed(ref); err == nil && p.routes.bundles != nil {
		p.routes.bundles.Wait(ctx, named)
	}
	route := p.routes.Route(ctx, ref)
	if !p.routes.config.Configured() && !route.inBundle() {
		return p.untouched(ctx, ref)
	}
	if route.Err != nil {
		countRefusal(denied)
		return fmt.Errorf("pull %s: %w", ref, route.Err)
	}
	if err := p.checkSnapshotters(); err != nil {
		countRefusal(denied)
		return fmt.Errorf("pull %s: %w", ref, err)
	}
	var attempts []attempt
	targets := p.order(ctx, route)
	for i, target := range targets {
		a, ok := again(attempts, target)
		if !ok {
			a = p.try(ctx, route, target)
		}
		if a.err == nil {
			p.t.repeats.worked(ctx, ref, target.Pull.String())
			return nil
		}
		attempts = append(attempts, a)
		if ctx.Err() != nil {
			return fmt.Errorf("pull %s: %w", ref, ctx.Err())
		}
		if i == len(targets)-1 || !a.goOn(ctx) {
			break
		}
		countFallback(target, a.outcome())
		p.t.repeats.log(ctx, failure{ref, target.Pull.String(), a.outcome()},
			log.Fields{"ref": ref, "pulled-as": target.Pull.String(), "rule": route.Rule, "cause": a.cause()},
			func(line *log.Entry) { line.Warn("target of a pull failed; trying the next") })
	}
	return &PullError{route: route, attempts: attempts}
}

// again returns how the attempt at target would end, if an attempt before it found that nobody is at its registry.
func again(before []attempt, target Target) (attempt, bool) {
	for _, a := range before {
		if target.endpoint == nil || a.target.endpoint != target.endpoint || !endpoint.IsDown(a.err) {
			continue
		}
		if _, down := target.endpoint.Down(); down { // and not its token server, or where it redirects to
			return attempt{target: target, source: a.source, err: a.err}, true
		}
	}
	return attempt{}, false
}

// checkSnapshotters refuses what would be unpacked by not fetching it.
func (p *pull) checkSnapshotters() error {
	unpacker, ok := p.storer.(transfer.ImageUnpacker)
	if !ok || p.t.IsLazy == nil || !p.routes.config.Configured() {
		return nil
	}
	for _, u := range unpacker.UnpackPlatforms() {
		if p.t.IsLazy(u.Snapshotter) {
			return fmt.Errorf("snapshotter %q fetches layers itself, from the host that the image's name says, and so past the rules; use a local snapshotter such as overlayfs: %w",
				u.Snapshotter, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// untouched pulls as stock containerd does, with stock's errors: nothing is configured.
func (p *pull) untouched(ctx context.Context, ref string) error {
	src := p.newSource(p.client, ref, ref)
	src.asStock = true
	dst := p.newDestination(ctx, nil)
	start := time.Now()
	err := p.t.Inner.Transfer(ctx, src, dst, p.opts...)
	p.fetched, p.stored = src.resolved, dst.stored
	record(ctx, provenance{ref: ref, kind: KindSource, pulledAs: ref, source: src, took: time.Since(start)}, err)
	return err
}

// order puts targets that could not be reached a moment ago behind the others.
func (p *pull) order(ctx context.Context, route Route) []Target {
	if len(route.Targets) == 1 {
		return route.Targets
	}
	var up, down []Target
	for _, target := range route.Targets {
		if target.endpoint != nil {
			if ago, isDown := target.endpoint.Down(); isDown {
				p.t.repeats.log(ctx, failure{route.Ref, target.Pull.String(), putLast},
					log.Fields{"pulled-as": target.Pull.String(), "ago": ago.Round(time.Millisecond)},
					func(line *log.Entry) { line.Info("target of a pull put last: it could not be reached a moment ago") })
				down = append(down, target)
				continue
			}
		}
		up = append(up, target)
	}
	return append(up, down...)
}

func (p *pull) try(ctx context.Context, route Route, target Target) attempt {
	origin, err := p.origin(ctx, target)
	if err != nil {
		return attempt{target: target, err: err}
	}
	asked := target.Pull.String()
	if origin == p.client {
		asked = route.Ref // what the client resolves, it fetches by the same name: hosts.toml go by it
	}
	src := p.newSource(origin, route.Ref, asked)
	labels := map[string]string{
		LabelPulledAs: target.Pull.String(),
		LabelRule:     route.Rule,
		LabelSource:   sourceName(target),
		LabelPulledAt: time.Now().UTC().Format(time.RFC3339),
	}
	service := p.t.Inner
	if target.Bundled != nil {
		service = target.Bundled.Service
		maps.Copy(labels, target.Bundled.Labels)
	}
	dst := p.newDestination(ctx, labels)
	if isCRI(ctx) {
		dst.checked = p.t.Content
	}
	if target.Bundled != nil {
		dst.bundled = target.Bundled
		dst.discard = target.Bundled.DiscardLayers // not CRI's setting: the loader would find it damaged at the next start
	}
	start := time.Now()
	err = service.Transfer(ctx, src, dst, p.opts...)
	p.fetched, p.stored = src.resolved, dst.stored
	if err != nil {
		p.reset(ctx, src)
	}
	record(ctx, provenance{
		ref: route.Ref, kind: target.Kind, registry: target.Domain(), name: target.Name(), pulledAs: target.Pull.String(),
		rule: route.Rule, source: src, took: time.Since(start),
	}, err)
	return attempt{target: target, source: src, err: err}
}

// isCRI reports whether a pull is of CRI, which calls the transfer service within containerd. Others pull into its namespace, too.
func isCRI(ctx context.Context) bool {
	method, _ := grpc.Method(ctx)
	return strings.HasPrefix(method, "/runtime.v1.")
}

// discards reports whether layers that a pull unpacks are discarded: CRI's setting is about what CRI pulls.
func (t *Transferrer) discards(ctx context.Context) bool {
	return isCRI(ctx) && t.DiscardLayers != nil && t.DiscardLayers()
}

func (p *pull) newSource(o origin, name, ref string) *source {
	return &source{origin: o, name: name, ref: ref, limit: p.t.Downloads}
}

// origin is how a target is reached: a configured registry by our endpoint, any other as the client would.
func (p *pull) origin(ctx context.Context, target Target) (origin, error) {
	switch {
	case target.Bundled != nil:
		return bundleOrigin{target.Bundled}, nil
	case target.endpoint != nil && target.Credential() == "client":
		// Tokens made of a client's credential are its own.
		own := target.endpoint.Authorizer(client{p.client, target.endpoint.Host()})
		return newEndpointOrigin(target.Pull.String(), target.endpoint.Hosts(own), own.Redact), nil
	case target.endpoint != nil:
		return newEndpointOrigin(target.Pull.String(), target.endpoint.Hosts(nil), target.endpoint.Redact), nil
	case target.Kind == KindSource:
		return p.client, nil
	}
	return client{registry: p.client}.origin(ctx, target.Pull.String())
}

// reset empties what a failed attempt left half-written. containerd would go on where it ended, even with bytes that
// were wrong, and then never ask again for as long as the lease lives. An ingest that another pull holds open stays.
func (p *pull) reset(ctx context.Context, src *source) {
	ctx = context.WithoutCancel(ctx)
	src.mu.Lock()
	fetched := append([]ocispec.Descriptor(nil), src.fetched...)
	src.mu.Unlock()
	for _, desc := range fetched {
		key := remotes.MakeRefKey(ctx, desc)
		if _, err := p.t.Content.Status(ctx, key); err != nil {
			continue
		}
		w, err := p.t.Content.Writer(ctx, content.WithRef(key), content.WithDescriptor(desc))
		if err != nil {
			continue // complete after all, or in use
		}
		if err := w.Truncate(0); err != nil {
			log.G(ctx).WithError(err).WithField("digest", desc.Digest).Warn("reset a failed download")
		}
		w.Close()
	}
}
