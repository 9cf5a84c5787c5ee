// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-edge/berth/loader"
	"github.com/berth-edge/berth/plugin/api"
)

// loaderOf returns the loader, nil if an operator disabled it.
func loaderOf(ic *plugin.InitContext) (*Loader, error) {
	instance, err := ic.GetByID(LoaderPlugin, LoaderID)
	if errors.Is(err, plugin.ErrPluginNotFound) {
		log.G(ic.Context).Warnf("%s is disabled: no bundle is loaded", LoaderURI)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return instance.(*Loader), nil
}

func (l *Loader) status() *api.LoaderStatus {
	if l.err != nil {
		return &api.LoaderStatus{Problems: strings.Split(l.err.Error(), "\n")}
	}
	return &api.LoaderStatus{Paths: l.Paths, Namespace: l.Namespace, Bundles: bundleStatuses(l.Catalog().Status()), Departed: l.Departed()}
}

func bundleStatuses(bundles []loader.BundleStatus) []*api.BundleStatus {
	out := make([]*api.BundleStatus, 0, len(bundles))
	for _, b := range bundles {
		one := &api.BundleStatus{Path: b.Path, Format: b.Format, State: string(b.State), Error: textOf(b.Err)}
		for _, i := range b.Images {
			one.Images = append(one.Images, &api.ImageStatus{
				Names: i.Names, Digest: i.Digest.String(), State: string(i.State), Error: textOf(i.Err), Notes: i.Notes, Size: i.Size, Read: i.Read,
			})
		}
		out = append(out, one)
	}
	return out
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return valid(err.Error())
}

// valid returns text as an answer may have it: an entry of a bundle, or a file of a layer, may have any name.
func valid(text string) string { return strings.ToValidUTF8(text, "\ufffd") }

// loaderInUse returns the loader, or why there is none.
func (s *service) loaderInUse() (*loader.Loader, error) {
	switch {
	case s.loader == nil:
		return nil, status.Error(codes.Unimplemented, "the loader is disabled")
	case s.loader.err != nil:
		return nil, status.Errorf(codes.FailedPrecondition, "the loader's stanza cannot be used: %v", s.loader.err)
	}
	return s.loader.Loader, nil
}

// progressEvery is how often a load by hand says how it stands.
const progressEvery = 200 * time.Millisecond

// Load implements [api.BerthServer].
func (s *service) Load(request *api.LoadRequest, stream grpc.ServerStreamingServer[api.LoadResponse]) error {
	l, err := s.loaderInUse()
	if err != nil {
		return err
	}
	for _, path := range request.Paths {
		if !filepath.IsAbs(path) {
			return status.Errorf(codes.InvalidArgument, "load %q: not an absolute path", path)
		}
	}
	load, err := l.LoadPaths(stream.Context(), request.Paths)
	if err != nil {
		return errgrpc.ToGRPC(err)
	}
	for {
		select {
		case <-load.Done():
			return stream.Send(&api.LoadResponse{Bundles: bundleStatuses(load.Status()), Done: true})
		case <-time.After(progressEvery):
		}
		if err := stream.Send(&api.LoadResponse{Bundles: bundleStatuses(load.Status())}); err != nil {
			return err
		}
	}
}

// Unpin implements [api.BerthServer].
func (s *service) Unpin(ctx context.Context, _ *api.UnpinRequest) (*api.UnpinResponse, error) {
	l, err := s.loaderInUse()
	if err != nil {
		return nil, err
	}
	n, err := l.Unpin(ctx)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.UnpinResponse{Images: int64(n)}, nil
}
