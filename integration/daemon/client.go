// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	coresnapshots "github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/plugin"
	"github.com/opencontainers/image-spec/identity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/binaries"
)

// wait waits until the daemon serves and looks at its plugins.
func (d *Daemon) wait(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if _, err := os.Stat(d.Address); err == nil {
			if err := d.connect(ctx); err == nil {
				if err := d.checkPlugins(ctx); err != nil || !d.opts.CRI {
					return err
				}
				return d.waitCRI(ctx)
			}
		}
		select {
		case <-d.proc.done:
			err := d.proc.err
			d.proc = nil
			return fmt.Errorf("containerd ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("containerd does not serve: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d *Daemon) connect(ctx context.Context) error {
	c, err := containerd.New(d.Address, containerd.WithTimeout(2*time.Second))
	if err != nil {
		return err
	}
	if _, err := c.Version(ctx); err != nil {
		return errors.Join(err, c.Close())
	}
	d.client = c
	return nil
}

// waitCRI waits until CRI has recovered what was there before: until then it answers "unavailable".
func (d *Daemon) waitCRI(ctx context.Context) error {
	runtime := cri.NewRuntimeServiceClient(d.client.Conn().(*grpc.ClientConn))
	for {
		_, err := runtime.Status(ctx, &cri.StatusRequest{})
		if status.Code(err) != codes.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("CRI does not serve: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// checkPlugins returns the errors of the plugins that pulls need, and with Options.CRI of those of CRI.
func (d *Daemon) checkPlugins(ctx context.Context) error {
	resp, err := d.client.IntrospectionService().Plugins(ctx)
	if err != nil {
		return err
	}
	// Ours are of types that stock does not have.
	needed := []string{"io.containerd.transfer.v1", "io.containerd.content.v1", "io.containerd.metadata.v1",
		"io.containerd.resolver.v1", "io.containerd.loader.v1"}
	if d.opts.CRI {
		needed = append(needed, "io.containerd.cri.v1", "io.containerd.grpc.v1", "io.containerd.runtime.v2", "io.containerd.shim.v1")
	}
	var errs []error
	var cri bool
	for _, p := range resp.Plugins {
		id := p.Type + "." + p.ID
		cri = cri || id == "io.containerd.grpc.v1.cri" && p.InitErr == nil
		if p.InitErr != nil && slices.Contains(needed, p.Type) && !strings.Contains(p.InitErr.Message, plugin.ErrSkipPlugin.Error()) {
			errs = append(errs, fmt.Errorf("load %s: %s", id, p.InitErr.Message))
		}
	}
	if d.opts.CRI && !cri {
		errs = append(errs, errors.New("load io.containerd.grpc.v1.cri: not there"))
	}
	return errors.Join(errs...)
}

// Client returns a client of containerd's own API. It is closed with the test.
func (d *Daemon) Client() *containerd.Client { return d.client }

// CRI returns clients of the two services of the container runtime interface. They are closed with the test.
func (d *Daemon) CRI(tb testing.TB) (cri.ImageServiceClient, cri.RuntimeServiceClient) {
	tb.Helper()
	conn, err := grpc.NewClient("unix://"+d.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return cri.NewImageServiceClient(conn), cri.NewRuntimeServiceClient(conn)
}

// Ctr runs ctr against the daemon, in the namespace "default" unless args say otherwise, and returns its standard
// output. It fails tb if ctr fails.
func (d *Daemon) Ctr(tb testing.TB, args ...string) string {
	tb.Helper()
	out, err := d.TryCtr(tb, args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// TryCtr is Ctr for a command that may fail; standard error is then part of the error.
func (d *Daemon) TryCtr(tb testing.TB, args ...string) (string, error) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), binaries.Path(tb, binaries.Ctr), append([]string{"--address", d.Address}, args...)...)
	var out, problems strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, problems.String())
	}
	return out.String(), nil
}

// CtrRun runs a container of the image with ctr, on the host's network, to its end and returns what it printed. The shim
// writes that to a file: of a container that ends before ctr has opened its FIFOs, ctr itself prints nothing.
func (d *Daemon) CtrRun(tb testing.TB, namespace, ref, id string, args ...string) string {
	tb.Helper()
	output := filepath.Join(tb.TempDir(), "output")
	d.Ctr(tb, append([]string{"--namespace", namespace, "run", "--rm", "--net-host",
		"--cgroup", "/" + d.cgroup() + "/" + id, "--log-uri", "file://" + output,
		"--runc-root", filepath.Join(d.Dir, "runc"), ref, id}, args...)...)
	text, err := os.ReadFile(output)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// Metrics returns the page of Prometheus metrics.
func (d *Daemon) Metrics(tb testing.TB) string {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "http://"+d.metrics+"/v1/metrics", nil)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatalf("get metrics: got %s %v", resp.Status, err)
	}
	return string(text)
}

// Rootfs mounts the unpacked file system of an image for reading and returns the directory. It fails tb if the image
// is not there or was not unpacked. The mount ends with the test.
func (d *Daemon) Rootfs(tb testing.TB, namespace, ref string) string {
	tb.Helper()
	return d.RootfsOf(tb, "", namespace, ref)
}

// RootfsOf is [Daemon.Rootfs] of what a snapshotter has; "" is containerd's default.
func (d *Daemon) RootfsOf(tb testing.TB, snapshotter, namespace, ref string) string {
	tb.Helper()
	ctx := namespaces.WithNamespace(tb.Context(), namespace)
	img, err := d.client.GetImage(ctx, ref)
	if err != nil {
		tb.Fatal(err)
	}
	diffs, err := img.RootFS(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	dir, err := os.MkdirTemp(d.Dir, "rootfs")
	if err != nil {
		tb.Fatal(err)
	}
	snapshots := d.client.SnapshotService(snapshotter)
	key := filepath.Base(dir)
	// Without the label, garbage collection may take it before it is mounted.
	mounts, err := snapshots.View(ctx, key, identity.ChainID(diffs).String(), coresnapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"}))
	if err != nil {
		tb.Fatalf("view rootfs of %s: %v", ref, err)
	}
	tb.Cleanup(func() {
		unmountBelow(dir)
		if d.client != nil {
			_ = snapshots.Remove(context.WithoutCancel(ctx), key)
		}
	})
	if err := mount.All(mounts, dir); err != nil {
		tb.Fatalf("mount rootfs of %s: %v", ref, err)
	}
	return dir
}
