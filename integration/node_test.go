// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/transfer/image"
	transferregistry "github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/registry"
)

const resolverURI = "io.containerd.resolver.v1.external-registry"

// node is our containerd, with a directory that stands for /etc/berth.
type node struct {
	*daemon.Daemon
	etc string
}

// newNode prepares a node whose one Berth file has the given text; "" is no file.
func newNode(t testing.TB, berth string, opts daemon.Options) node {
	t.Helper()
	daemon.RequireRoot(t)
	n := node{etc: t.TempDir()}
	if berth != "" {
		n.configure(t, "registry.toml", berth)
	}
	opts.Binary = binaries.Path(t, binaries.Containerd)
	if opts.DropIns == nil {
		opts.DropIns = map[string]string{}
	}
	if _, ok := opts.DropIns["10-berth.toml"]; !ok {
		opts.DropIns["10-berth.toml"] = stanza(fmt.Sprintf("config_path = [%q]", n.etc+"/*.toml"))
	}
	n.Daemon = daemon.New(t, opts)
	return n
}

// startNode is newNode and a start.
func startNode(t testing.TB, berth string, opts daemon.Options) node {
	t.Helper()
	n := newNode(t, berth, opts)
	if err := n.Run(t); err != nil {
		t.Fatalf("start: %v\n%s", err, n.Log.Tail(40))
	}
	return n
}

// stanza is a drop-in with our stanza.
func stanza(text string) string {
	return fmt.Sprintf("version = 3\n[plugins.%q]\n%s\n", resolverURI, text)
}

// configure writes a file of the node's Berth directory. It takes the place of a former one at once.
func (n node) configure(t testing.TB, name, text string) {
	t.Helper()
	path := filepath.Join(n.etc, name)
	write(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// write writes a file that only root may read.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// entry is [[registries]] for r, with a path below it and further lines.
func entry(t testing.TB, r *registry.Registry, path string, lines ...string) string {
	t.Helper()
	var ca string
	if r.CA != nil {
		ca = fmt.Sprintf("certificates = [%q]\n", r.CA.File(t))
	}
	return fmt.Sprintf("[[registries]]\ndomain = %q\n%s%s\n", strings.TrimSuffix(r.Host()+"/"+path, "/"), ca, strings.Join(lines, "\n"))
}

// login is a user and a password as lines of [[registries]].
func login(user, password string) string {
	return fmt.Sprintf("username = %q\npassword = %q", user, password)
}

// rule is [[rules]] from one prefix to targets.
func rule(from string, to ...string) string {
	return fmt.Sprintf("[[rules]]\nfrom = %q\nto = [\"%s\"]\n", from, strings.Join(to, `", "`))
}

// A client pulls in its own way, and keeps its images in a namespace.
type client struct {
	name, namespace string
	pull            func(t testing.TB, d *daemon.Daemon, ref string) error
}

var clients = []client{
	{"CRI", "k8s.io", pullCRI},
	{"ctr", "default", pullCtr},
	{"Transfer", "go", pullTransfer},
}

// pullLimit bounds one pull of a test.
const pullLimit = 60 * time.Second

// pullCRI pulls as kubelet does.
func pullCRI(t testing.TB, d *daemon.Daemon, ref string) error { return pullCRIAs(t, d, ref, nil) }

func pullCRIAs(t testing.TB, d *daemon.Daemon, ref string, auth *cri.AuthConfig) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pullLimit)
	defer cancel()
	images, _ := d.CRI(t)
	_, err := images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: auth})
	return err
}

// pullCtr pulls with ctr through the transfer service.
func pullCtr(t testing.TB, d *daemon.Daemon, ref string) error {
	t.Helper()
	_, err := d.TryCtr(t, "images", "pull", ref)
	return err
}

// pullTransfer pulls with the Go client.
func pullTransfer(t testing.TB, d *daemon.Daemon, ref string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), "go"), pullLimit)
	defer cancel()
	return transferIn(ctx, d, ref)
}

// transferIn pulls with the Go client in the namespace of ctx.
func transferIn(ctx context.Context, d *daemon.Daemon, ref string, opts ...transferregistry.Opt) error {
	source, err := transferregistry.NewOCIRegistry(ctx, ref, opts...)
	if err != nil {
		return err
	}
	p := platforms.DefaultSpec()
	return d.Client().Transfer(ctx, source, image.NewStore(ref, image.WithPlatforms(p), image.WithUnpack(p, "")))
}

// fetchIn pulls as transferIn does, and unpacks nothing.
func fetchIn(ctx context.Context, d *daemon.Daemon, ref string) error {
	source, err := transferregistry.NewOCIRegistry(ctx, ref)
	if err != nil {
		return err
	}
	return d.Client().Transfer(ctx, source, image.NewStore(ref, image.WithPlatforms(platforms.DefaultSpec())))
}

// berth runs the operator's command and returns what it printed, and its exit status.
func berth(t testing.TB, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	binaries.Path(t, binaries.Containerd) // beside it: berth reads a main configuration with it
	cmd := exec.CommandContext(t.Context(), binaries.Path(t, binaries.Berth), args...)
	var out, problems strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

// wantError fails t unless err has all of the texts.
func wantError(t testing.TB, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want one with %q", texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("got error %q, want it to have %q", err, text)
		}
	}
}

// within calls ok until it is true, or fails t.
func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("got no %s within %s", what, limit)
		}
	}
}
