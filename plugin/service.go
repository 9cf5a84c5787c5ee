// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/plugins"
	containerdversion "github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-edge/berth/plugin/api"
)

// Version is Berth's own version, set by the linker.
var Version = "dev"

func init() {
	registry.Register(&plugin.Registration{
		Type:     plugins.GRPCPlugin,
		ID:       "berth",
		Requires: []plugin.Type{ResolverPlugin, LoaderPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			r, err := resolverOf(ic)
			if err != nil {
				return nil, err
			}
			l, err := loaderOf(ic)
			if err != nil {
				return nil, err
			}
			if r == nil && l == nil {
				return nil, plugin.ErrSkipPlugin
			}
			return &service{resolver: r, loader: l}, nil
		},
	})
}

// service answers the berth command.
type service struct {
	api.UnimplementedBerthServer
	resolver *Resolver // nil if it is disabled
	loader   *Loader   // nil if it is disabled
}

var _ api.BerthServer = (*service)(nil)

// Register adds the service to containerd's socket.
func (s *service) Register(server *grpc.Server) error {
	api.RegisterBerthServer(server, s)
	return nil
}

// Status implements [api.BerthServer].
func (s *service) Status(ctx context.Context, request *api.StatusRequest) (*api.StatusResponse, error) {
	var damages []*api.Damage
	if request.Verify {
		l, err := s.loaderInUse()
		if err != nil {
			return nil, err
		}
		found, err := l.Verify(ctx, true)
		if err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		for _, d := range found {
			damages = append(damages, &api.Damage{Text: valid(d.String()), Namespace: d.Namespace, Mended: d.Mended})
		}
	}
	response := &api.StatusResponse{Containerd: containerdversion.Version, Berth: Version, Damages: damages}
	if s.resolver != nil {
		response.Resolver = s.resolver.status(ctx)
	}
	if s.loader != nil {
		response.Loader = s.loader.status()
	}
	return response, nil
}

func (r *Resolver) status(ctx context.Context) *api.ResolverStatus {
	credentials, warnings := r.State().credentials(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &api.ResolverStatus{
		Since:       timestamppb.New(r.state.Since),
		Files:       r.state.Files,
		Warnings:    warnings,
		Credentials: credentials,
		Cri:         r.cri,
		CriRefused:  r.criIsAbsent || r.criIsPast && r.state.Configured(),
		Generation:  r.state.Generation,
	}
	if err := r.change.refused; err != nil {
		out.Refused = strings.Split(err.Error(), "\n")
		out.RefusedSince = timestamppb.New(r.change.since)
	}
	for _, registry := range r.state.Registries {
		out.Registries = append(out.Registries, string(registry.Domain))
	}
	if r.state.Routes != nil {
		out.Rules = uint32(r.state.Routes.Len())
	}
	switch {
	case r.state.Err != nil:
		out.State = api.ResolverStatus_REFUSING
		out.Problems = strings.Split(r.state.Err.Error(), "\n")
	case r.state.Loaded.Configured():
		out.State = api.ResolverStatus_CONFIGURED
	}
	return out
}

// credentials returns those that cannot be used as they are now, and all other warnings.
func (s State) credentials(ctx context.Context) (bad []*api.CredentialStatus, warnings []string) {
	warnings = s.WarningsNow()
	if s.Routes == nil {
		return nil, warnings
	}
	for _, registry := range s.Registries {
		t, ok := s.Routes.Trouble(ctx, registry.Domain)
		if !ok {
			continue
		}
		bad = append(bad, &api.CredentialStatus{Registry: string(registry.Domain), Error: t.Text, Since: timestamppb.New(t.Since), Kept: t.Kept})
		said := fmt.Sprintf("registry %s: %s", registry.Domain, t.Text)
		warnings = slices.DeleteFunc(warnings, func(w string) bool { return w == said })
	}
	return bad, warnings
}
