// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/urfave/cli/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/berth-edge/berth/plugin/api"
)

func addressFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "address", Aliases: []string{"a"},
		Usage:   "containerd's socket",
		Value:   "/run/containerd/containerd.sock",
		Sources: cli.EnvVars("CONTAINERD_ADDRESS"),
	}
}

// daemon is a running containerd.
type daemon struct {
	api.BerthClient
	conn    *grpc.ClientConn
	address string
}

func connect(ctx context.Context, cmd *cli.Command) (*daemon, error) {
	address := strings.TrimPrefix(cmd.String("address"), "unix://")
	if err := dial(ctx, address); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("containerd's socket is not for this user: %w; run berth as root", err)
		}
		return nil, fmt.Errorf("containerd does not answer: %w; start it, or name its socket with --address", err)
	}
	conn, err := grpc.NewClient("unix:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize)))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	return &daemon{api.NewBerthClient(conn), conn, address}, nil
}

func (d *daemon) close() { d.conn.Close() }

// said turns what a call returned into an error for people.
func (d *daemon) said(err error) error {
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.Unimplemented:
		if message := status.Convert(err).Message(); !strings.Contains(message, "unknown service") {
			return fmt.Errorf("containerd at %s: %s", d.address, message)
		}
		return fmt.Errorf("containerd at %s is not Berth's, or its resolver is disabled", d.address)
	}
	return fmt.Errorf("ask containerd at %s: %s", d.address, status.Convert(err).Message())
}

// dial connects to a socket and no more: what gRPC says of one that is not there is hard to read.
func dial(ctx context.Context, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", address)
	if err == nil {
		conn.Close()
	}
	return err
}
