// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
)

// TestDemo runs the demonstration as `make demo` does, and looks for what it leaves.
func TestDemo(t *testing.T) {
	daemon.RequireRoot(t)
	if testing.Short() {
		t.Skip("links a program")
	}
	temp := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./integration/demo")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "TMPDIR="+temp,
		"BERTH_BIN="+binaries.Dir(t, binaries.Containerd, binaries.Berth, binaries.Ctr, binaries.Shim, binaries.Runc, binaries.Probe))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"password_file = ",                                                                     // the one file
		`rule "*"`, "/spectro-images/quay.io/demo/hello:1  credential: password of 127.0.0.1:", // explain
		"pulls go along 1 rule to 1 registry",                                                               // status
		"the container says: hello from the private registry", "pulled image", `ref="quay.io/demo/hello:1"`, // ctr
		"GET 127.0.0.1:", "/v2/spectro-images/quay.io/demo/hello/blobs/", "/v2/spectro-images/registry.k8s.io/pause/", // the proof
		"quay.io/demo/hello:1\n",
		"the container says: hello from the bundle\n", "core.tar: loaded, oci-archive, 2 images\n", "registry: registry.invalid\n", // without a network
		"nothing is left behind",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("got no %q in\n%s", want, out)
		}
	}
	if strings.Count(string(out), "the container says: hello from the private registry\n") != 2 {
		t.Errorf("got\n%s\nwant a container of ctr's and one of CRI's", out)
	}
	if strings.Contains(string(out), "demo-password") {
		t.Error("got the password in the output")
	}
	if left, _ := filepath.Glob(temp + "/*"); len(left) > 0 {
		t.Errorf("got files %q, want none left", left)
	}
	_, rest, _ := strings.Cut(string(out), "\ndirectory: ")
	dir, _, _ := strings.Cut(rest, "\n")
	if _, err := os.Stat(dir); dir == "" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for the daemon's directory %q, want it removed", err, dir)
	}
	if mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(temp)); err != nil || len(mounts) > 0 {
		t.Errorf("got mounts %v %v, want none left", mounts, err)
	}
}
