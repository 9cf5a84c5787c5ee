// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/urfave/cli/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/berth-edge/berth/plugin/api"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:         "status",
		Usage:        "show what a running containerd goes by; exit status 1 if it refuses pulls, or if pulls go past the rules",
		OnUsageError: onUsageError,
		Flags: []cli.Flag{&cli.StringFlag{
			Name: "address", Aliases: []string{"a"},
			Usage:   "containerd's socket",
			Value:   "/run/containerd/containerd.sock",
			Sources: cli.EnvVars("CONTAINERD_ADDRESS"),
		}},
		Action: showStatus,
	}
}

func showStatus(ctx context.Context, cmd *cli.Command) error {
	address := strings.TrimPrefix(cmd.String("address"), "unix://")
	if err := dial(ctx, address); err != nil {
		return fmt.Errorf("containerd does not answer: %w; start it, or name its socket with --address", err)
	}
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := api.NewBerthClient(conn).Status(ctx, &api.StatusRequest{})
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return fmt.Errorf("containerd at %s is not Berth's, or its resolver is disabled", address)
	default:
		return fmt.Errorf("ask containerd at %s: %s", address, status.Convert(err).Message())
	}
	printStatus(cmd.Root().Writer, s)
	if s.Resolver.State == api.ResolverStatus_REFUSING || s.Resolver.CriPastRules {
		return errFault
	}
	return nil
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

func printStatus(w io.Writer, s *api.StatusResponse) {
	r := s.Resolver
	fmt.Fprintf(w, "containerd %s, berth %s\n", s.Containerd, s.Berth)
	since := r.Since.AsTime().Local().Format(time.RFC3339)
	switch r.State {
	case api.ResolverStatus_CONFIGURED:
		fmt.Fprintf(w, "pulls go along %d rules to %d registries, since %s\n", r.Rules, len(r.Registries), since)
	case api.ResolverStatus_REFUSING:
		fmt.Fprintf(w, "pulls are refused since %s, until this is mended:\n", since)
	default:
		fmt.Fprintf(w, "no rules: every pull goes where its reference says, since %s\n", since)
	}
	list := func(title string, lines []string) {
		for _, line := range lines {
			fmt.Fprintf(w, "  %s: %s\n", title, line)
		}
	}
	list("error", r.Problems)
	list("registry", r.Registries)
	list("file", r.Files)
	list("warning", r.Warnings)
	list("cri", r.Cri)
	if r.CriPastRules {
		fmt.Fprintln(w, strings.ToUpper("CRI pulls past the rules")+": restart containerd")
	}
}
