// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/berth-edge/berth/cmd/berth/mirror"
	"github.com/berth-edge/berth/resolver"
)

// imageFlags are those of the commands that go to registries. usage is that of --platform.
func imageFlags(usage string) []cli.Flag {
	return []cli.Flag{
		configFlag(), fileFlag(),
		&cli.StringFlag{Name: "platform", Usage: usage},
	}
}

// platformOf returns the platform that --platform names, this machine's if it names none.
func platformOf(cmd *cli.Command) (ocispec.Platform, error) {
	text := cmd.String("platform")
	if text == "" {
		return platforms.DefaultSpec(), nil
	}
	platform, err := platforms.Parse(text)
	if err != nil {
		return platform, usageError{fmt.Errorf("--platform: %w", err)}
	}
	return platform, nil
}

// imageCommand returns what a command that goes to registries is given: its output, the images it is about, and the mirror of
// its configuration.
func imageCommand(ctx context.Context, cmd *cli.Command) (output string, refs []string, m *mirror.Mirror, err error) {
	if output, err = outputOf(cmd); err != nil {
		return "", nil, nil, err
	}
	if refs, err = wantedImages(cmd); err != nil {
		return "", nil, nil, err
	}
	m, err = newMirror(ctx, cmd)
	return output, refs, m, err
}

// newMirror reads the configuration that a command is given.
func newMirror(ctx context.Context, cmd *cli.Command) (*mirror.Mirror, error) {
	platform, err := platformOf(cmd)
	if err != nil {
		return nil, err
	}
	loaded, _, err := loadConfig(ctx, cmd.String("config"))
	if err != nil {
		return nil, err
	}
	routes, err := resolver.NewRoutes(loaded.Config)
	if err != nil {
		return nil, err
	}
	return mirror.New(routes, platform), nil
}

// untilStopped returns a context that ends when the command is told to stop, or its terminal is gone, so that it removes what is half
// done. Told again, it ends at once. The caller calls stop.
func untilStopped(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop = signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// bytesText is a number of bytes for people.
func bytesText(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 3 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %cB", value, "kMGT"[prefix])
}
