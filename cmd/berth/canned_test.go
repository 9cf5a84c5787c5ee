// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/berth-edge/berth/plugin/api"
)

// canned answers as a containerd would that has what a session says: a node's own is tried in package integration.
type canned struct {
	api.UnimplementedBerthServer
	imagesapi.UnimplementedImagesServer
	status *api.StatusResponse
	images map[string][]cannedImage // by namespace
}

type cannedImage struct {
	Name, Digest string
	Labels       map[string]string
}

func (c *canned) Status(context.Context, *api.StatusRequest) (*api.StatusResponse, error) {
	return c.status, nil
}

func (c *canned) Load(_ *api.LoadRequest, stream grpc.ServerStreamingServer[api.LoadResponse]) error {
	if err := stream.Send(&api.LoadResponse{Bundles: c.status.Loader.Bundles}); err != nil {
		return err
	}
	return stream.Send(&api.LoadResponse{Bundles: c.status.Loader.Bundles, Done: true})
}

func (c *canned) Unpin(context.Context, *api.UnpinRequest) (*api.UnpinResponse, error) {
	return &api.UnpinResponse{Images: 1}, nil
}

func (c *canned) List(ctx context.Context, _ *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	sent, _ := metadata.FromIncomingContext(ctx)
	var response imagesapi.ListImagesResponse
	for _, i := range c.images[sent.Get(namespaces.GRPCHeader)[0]] {
		response.Images = append(response.Images, &imagesapi.Image{Name: i.Name, Labels: i.Labels, Target: &types.Descriptor{Digest: i.Digest}})
	}
	return &response, nil
}

// serve answers at a socket until the session ends: serve SOCKET FILE. The file has the status, as protobuf's JSON, and the
// images of each namespace.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: serve SOCKET FILE")
	}
	var has struct {
		Status json.RawMessage
		Images map[string][]cannedImage
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &has))
	c := &canned{status: &api.StatusResponse{}, images: has.Images}
	if has.Status != nil {
		ts.Check(protojson.Unmarshal(has.Status, c.status))
	}
	socket, err := net.Listen("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	server := grpc.NewServer()
	api.RegisterBerthServer(server, c)
	imagesapi.RegisterImagesServer(server, c)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(socket) }()
	ts.Defer(func() { server.Stop(); <-ended })
}

// schema validates the output of the last command: schema NAME, of docs/schema.
func schema(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: schema NAME")
	}
	path, err := filepath.Abs(filepath.Join("../../docs/schema", args[0]+".json"))
	ts.Check(err)
	compiled, err := jsonschema.Compile(path)
	ts.Check(err)
	var output any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &output))
	ts.Check(compiled.Validate(output))
}
