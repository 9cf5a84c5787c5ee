// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestLoadCommand loads bundles by hand.
func TestLoadCommand(t *testing.T) {
	daemon.RequireRoot(t)
	a, b, c := oneLayer(500, "registry.k8s.io/a:1"), oneLayer(501, "quay.io/team/b:1"), oneLayer(502, "quay.io/team/c:1")
	d, e := oneLayer(503, "quay.io/team/d:1"), oneLayer(504, "quay.io/team/e:1")
	l := newLoading(t, "", daemon.Options{CRI: true})
	l.start(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	good := image.WriteFile(t, filepath.Join(dir, "good.tar"), image.Tar(image.OCI([]image.Named{a})))
	folder := filepath.Join(dir, "folder")
	image.WriteFile(t, filepath.Join(folder, "b.tar"), image.Gzip(image.Tar(image.DockerSave([]image.Named{b}))))
	image.WriteLayout(t, filepath.Join(folder, "c"), image.OCI([]image.Named{c}))
	bad := image.WriteFile(t, filepath.Join(dir, "bad.tar"), []byte("<html>"))
	open := image.WriteFile(t, filepath.Join(dir, "open.tar"), image.Tar(image.OCI([]image.Named{a})))
	if err := os.Chmod(open, 0o666); err != nil {
		t.Fatal(err)
	}
	other := image.WriteFile(t, filepath.Join(dir, "other.tar"), image.Tar(image.OCI([]image.Named{d})))
	mixed := filepath.Join(dir, "mixed")
	image.WriteFile(t, filepath.Join(mixed, "z.tar"), image.Tar(image.OCI([]image.Named{e})))
	if err := os.Chmod(image.WriteFile(t, filepath.Join(mixed, "a.tar"), image.Tar(image.OCI([]image.Named{a}))), 0o666); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args []string
		code int
		out  []string // lines of standard output, in their order
		errs []string // parts of standard error
	}{
		{"a file, by a relative path", []string{"good.tar"}, 0, []string{
			"  " + good + ": loaded, oci-archive, 1 image", "    registry.k8s.io/a:1 " + a.Digest.String() + ": loaded"}, nil},
		{"the same again", []string{good}, 0, []string{
			"  " + good + ": present, oci-archive, 1 image", "    registry.k8s.io/a:1 " + a.Digest.String() + ": present"}, nil},
		{"a directory", []string{"./folder"}, 0, []string{
			"  " + folder + "/b.tar: loaded, docker-archive, 1 image", "quay.io/team/b:1",
			"  " + folder + "/c: loaded, oci-layout, 1 image", "    quay.io/team/c:1 " + c.Digest.String() + ": loaded"}, nil},
		{"a bad file and a good one", []string{bad, good}, 1, []string{
			"  " + bad + ": failed", "    error: ", "  " + good + ": present"}, nil},
		{"a name that is not UTF-8", []string{"\xff.tar"}, 1, nil, []string{"error: load \"" + dir + `/\xff.tar": its path is not UTF-8; rename it`}},
		{"no such file", []string{"absent.tar"}, 1, nil, []string{"error: ", "load " + dir + "/absent.tar: no such file or directory"}},
		{"no such file before a good one", []string{"absent.tar", other}, 1, []string{
			"  " + other + ": loaded, oci-archive, 1 image", "  " + dir + "/absent.tar: failed\n    error: load " + dir + "/absent.tar: no such file or directory"}, nil},
		{"no such file, and one that everybody can write to", []string{"absent.tar", open}, 1, nil, []string{
			"error: ", "refusing bundle " + open + ": mode 0666", "\nerror: load " + dir + "/absent.tar: no such file or directory"}},
		{"a directory with a file that everybody can write to", []string{mixed}, 1, []string{
			"  " + mixed + "/z.tar: loaded, oci-archive, 1 image", "  " + mixed + "/a.tar: failed\n    error: refusing bundle " + mixed + "/a.tar: mode 0666"}, nil},
		{"a directory without bundles", []string{empty}, 1, nil, []string{"error: ", "no bundle in " + empty}},
		{"a file that everybody can write to", []string{open}, 1, nil, []string{"error: ", "refusing bundle " + open + ": mode 0666"}},
		{"nothing", nil, 2, nil, []string{"error: load wants one or more files or directories"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), binaries.Path(t, binaries.Berth), append([]string{"load", "--address", l.Address}, tc.args...)...)
			cmd.Dir = dir
			var out, errs strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &errs
			_ = cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != tc.code {
				t.Errorf("got exit status %d, want %d", got, tc.code)
			}
			rest := out.String()
			for _, want := range tc.out {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Errorf("got output\n%s\nwant %q in it, in order", out.String(), want)
				}
				rest = after
			}
			for _, want := range tc.errs {
				if !strings.Contains(errs.String(), want) {
					t.Errorf("got errors %q, want %q", errs.String(), want)
				}
			}
			if strings.Contains(out.String()+errs.String(), "\x1b") {
				t.Errorf("got %q on a pipe, want plain lines", out.String()+errs.String())
			}
		})
	}
	for _, n := range []image.Named{a, b, c, d, e} {
		l.wantLoaded(t, n)
	}
	l.restart(t) // what was loaded by hand is pinned as long as its bundle is there
	for _, n := range []image.Named{a, b, c, d, e} {
		l.wantLoaded(t, n)
	}
	l.Stop(t)
	_, errs, code := berth(t, "load", "--address", l.Address, good)
	if code != 1 || !strings.HasPrefix(errs, "error: ") || strings.Count(errs, "\n") != 1 {
		t.Errorf("without containerd: got %d %q, want an error on one line", code, errs)
	}
}

// TestLoadIsSaid looks at what the log, the status and the metrics say of a load.
func TestLoadIsSaid(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{CRI: true})
	l.start(t)
	if out, good := l.status(t); !good || !strings.Contains(out, "no bundles in "+l.folder+"\n") {
		t.Errorf("got status\n%s", out)
	}
	l.Stop(t)
	a, b := oneLayer(510, "registry.k8s.io/a:1"), oneLayer(511, "registry.k8s.io/b:1")
	path := l.bundle(t, "a.tar", a, b)
	bad := l.put(t, "bad.tar", []byte("nothing"))
	open := l.bundle(t, "open.tar", a)
	if err := os.Chmod(open, 0o664); err != nil {
		t.Fatal(err)
	}
	l.start(t)
	out, good := l.status(t)
	want := fmt.Sprintf(`3 bundles, loaded into namespace k8s.io
  %s: loaded, oci-archive, 2 images
    registry.k8s.io/a:1 %s: loaded
    registry.k8s.io/b:1 %s: loaded
  %s: failed
    error: open bundle %[4]s: not a tar, gzip or zstd file (starts with "nothing")
  %s: failed
    error: refusing bundle %[5]s: mode 0664: others can write to it; chmod go-w
`, path, a.Digest, b.Digest, bad, open)
	if good || !strings.HasSuffix(out, want) {
		t.Errorf("got status %t\n%s\nwant a fault, and\n%s", good, out, want)
	}
	for _, line := range [][]string{
		{"level=info", `msg="bundle is loaded"`, "bundle=" + path, "format=oci-archive", "images=2", "loaded=2", "present=0", "failed=0", "seconds="},
		{"level=error", "bundle=" + bad, "not a tar"},
		{"level=error", "bundle=" + open, "mode 0664"},
		{"level=info", `msg="bundles are loaded"`, "bundles=3", "failed=2", "images=2"},
	} {
		if got := l.Log.Lines(line...); len(got) != 1 {
			t.Errorf("got lines %q, want one with %q", got, line)
		}
	}
	metrics := l.Metrics(t)
	for _, m := range []string{
		`berth_loader_bundles\{state="loaded"\} 1`, `berth_loader_bundles\{state="failed"\} 2`, `berth_loader_images\{state="loaded"\} 2`,
		`berth_loader_images_total\{outcome="loaded"\} 2`, `berth_loader_read_bytes_total [1-9]`, `berth_loader_bundle_seconds_count [1-9]`,
		`berth_loader_written_bytes_total [1-9]`,
	} {
		if !regexp.MustCompile(`(?m)^` + m).MatchString(metrics) {
			t.Errorf("got no metric %s:\n%s", m, regexp.MustCompile(`(?m)^berth_loader.*$`).FindAllString(metrics, -1))
		}
	}
	rounds := l.rounds()
	image.WriteFile(t, filepath.Join(l.folder, ".hidden"), nil)
	time.Sleep(time.Second)
	if got := l.rounds(); got != rounds {
		t.Errorf("got %d rounds of loading after a change that is none, want none", got-rounds)
	}
	l.restart(t)
	if got := l.Metrics(t); !strings.Contains(got, `berth_loader_images_total{outcome="present"} 2`) || !strings.Contains(got, "berth_loader_read_bytes_total 0\n") {
		t.Errorf("got metrics of a start with nothing to do:\n%s", regexp.MustCompile(`(?m)^berth_loader.*$`).FindAllString(got, -1))
	}
}

// A user who may not ask containerd is told so, and not to start it.
func TestNoRightToSocket(t *testing.T) {
	daemon.RequireRoot(t)
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	command, err := os.ReadFile(binaries.Path(t, binaries.Berth))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "berth"), command, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "c.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(socket, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "berth"), "status", "--address", socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if want := "connect: permission denied; run berth as root\n"; err == nil || !strings.HasSuffix(string(out), want) {
		t.Errorf("got %v\n%s\nwant an error that ends in %q", err, out, want)
	}
}
