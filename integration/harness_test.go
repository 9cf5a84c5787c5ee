// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package integration_test tries a whole containerd from outside: real registries, real images, real containers, over
// loopback. These tests show, with stock containerd, that the parts they are built from can be trusted.
package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

func TestMain(m *testing.M) { binaries.Main(m) }

var ann = map[string]string{"ann": "s3cret"}

func TestStockCtrPull(t *testing.T) {
	daemon.RequireRoot(t)
	for _, tc := range []struct {
		name, user, wantErr string
		opts                registry.Options
	}{
		{"basic", "ann:s3cret", "", registry.Options{Users: ann}},
		{"basic, wrong password", "ann:wrong", "401", registry.Options{Users: ann}},
		{"token", "ann:s3cret", "", registry.Options{Tokens: &registry.Tokens{
			Users: map[string]registry.User{"ann": {Password: "s3cret", Scopes: []string{"repository:lib/nginx:pull"}}},
		}}},
		{"token elsewhere, wrong scope", "ann:s3cret", "insufficient_scope", registry.Options{Tokens: &registry.Tokens{
			Elsewhere: true,
			Users:     map[string]registry.User{"ann": {Password: "s3cret", Scopes: []string{"repository:lib/other:pull"}}},
		}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := registry.Start(t, tc.opts)
			img := image.Multi(7)
			img.Push(t, r, "lib/nginx:1")
			hosts := t.TempDir()
			registry.WriteHosts(t, hosts, r.Host(), r.Mirror(t))
			d := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock)})
			ref := r.Host() + "/lib/nginx:1"
			out, err := d.TryCtr(t, "images", "pull", "--hosts-dir", hosts, "--user", tc.user, ref)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Errorf("got %s %v, want %q\n%s", out, err, tc.wantErr, r.Log.Lines())
				}
				return
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, r.Log.Lines())
			}
			if got := d.Ctr(t, "images", "ls", "-q"); got != ref+"\n" {
				t.Errorf("got images %q, want %q", got, ref)
			}
			if err := img.For("linux/amd64").Compare(d.Rootfs(t, "default", ref)); err != nil {
				t.Error(err)
			}
			for _, one := range img.Images {
				layer := "/v2/lib/nginx/blobs/" + one.Layers[0].Digest.String()
				want := map[string]int{"amd64": 1, "arm64": 0}[one.Platform.Architecture]
				if got := len(r.Log.Match("GET", layer)); got != want {
					t.Errorf("%s: got %d requests of the layer, want %d:\n%s", one.Platform.Architecture, got, want, r.Log.Lines())
				}
			}
		})
	}
}

// criHosts makes CRI pull with the hosts.toml files of dir: a list of two directories would be ignored.
func criHosts(dir string) string {
	return fmt.Sprintf("version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\n  config_path = %q\n", dir)
}

func TestStockCRI(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: ann})
	pause, hello := image.Pause(t), image.Hello(t, "from", "CRI")
	pause.Push(t, r, "pause:3.10")
	hello.Push(t, r, "demo/hello:1")
	hosts := t.TempDir()
	mirror := r.Mirror(t)
	mirror.Authorization = "Basic YW5uOnMzY3JldA=="
	registry.WriteHosts(t, hosts, "registry.test", mirror)
	d := daemon.Start(t, daemon.Options{
		Binary: binaries.Path(t, binaries.Stock), CRI: true, Config: criHosts(hosts), Pause: "registry.test/pause:3.10",
	})
	images, _ := d.CRI(t)
	const ref = "registry.test/demo/hello:1"
	pulled, err := images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}})
	if err != nil {
		t.Fatalf("pull: %v\n%s", err, r.Log.Lines())
	}
	if got, want := pulled.ImageRef, hello.ConfigDigest.String(); got != want {
		t.Errorf("got image %s, want %s", got, want)
	}
	if err := hello.Compare(d.Rootfs(t, "k8s.io", ref)); err != nil {
		t.Error(err)
	}
	pod, err := d.RunPod(t, "pod")
	if err != nil {
		t.Fatalf("run pod: %v\n%s", err, r.Log.Lines())
	}
	if got, want := pod.Run(t, "hello", ref), "hello from CRI\n"; got != want {
		t.Errorf("got log %q, want %q", got, want)
	}
	// The pod outlives the daemon, and is removed by the next one.
	d.Restart(t, nil)
	d.Kill()
	if err := d.Run(t); err != nil {
		t.Fatal(err)
	}
	pod.Remove(t)
}

func TestStockCtrRun(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Plain: true})
	image.Hello(t, "from", "ctr").Push(t, r, "hello:1")
	d := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock)})
	ref := r.Host() + "/hello:1"
	d.Ctr(t, "images", "pull", "--plain-http", ref)
	if got, want := d.CtrRun(t, "default", ref, "c1"), "hello from ctr\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDaemonVersions(t *testing.T) {
	daemon.RequireRoot(t)
	for _, version := range []int{2, 3, 4} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			r := registry.Start(t, registry.Options{Names: []string{"reg.test"}})
			image.Small("linux/amd64", 1).Push(t, r, "a:1")
			image.Pause(t).Push(t, r, "pause:1")
			_, port, _ := strings.Cut(r.Host(), ":")
			ref := "reg.test:" + port + "/a:1"
			hosts := t.TempDir()
			registry.WriteHosts(t, hosts, "reg.test:"+port, registry.Mirror{URL: "https://reg.test:" + port, CA: r.CA.File(t)})
			d := daemon.Start(t, daemon.Options{
				Binary: binaries.Path(t, binaries.Stock), CRI: true, Version: version, Pause: "reg.test:" + port + "/pause:1",
				Config: criHosts(hosts), Hosts: map[string]string{"reg.test": "127.0.0.1"},
			})
			images, _ := d.CRI(t)
			if _, err := images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
				t.Error(err)
			}
			if !strings.Contains(d.Metrics(t), "containerd_build_info_total") {
				t.Error("got metrics without containerd_build_info_total")
			}
			if _, err := d.RunPod(t, "pod"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDaemonLeavesNothing kills a daemon while its containers run, and looks for what is left after the test.
func TestDaemonLeavesNothing(t *testing.T) {
	daemon.RequireRoot(t)
	// Places that a containerd with its defaults would make.
	places := []string{"/run/containerd", "/var/lib/containerd", "/etc/containerd", "/opt/containerd", "/etc/cni", "/opt/cni", "/var/run/nri"}
	state := func() (list []string) {
		for _, place := range places {
			_ = filepath.WalkDir(place, func(path string, e os.DirEntry, err error) error {
				if err == nil {
					list = append(list, path)
				}
				return nil
			})
		}
		cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/*/*/")
		roots, _ := filepath.Glob("/sys/fs/cgroup/*/*/")
		return slices.Concat(list, roots, cgroups)
	}
	before := strings.Join(state(), "\n")
	var dir, address string
	t.Run("daemon", func(t *testing.T) {
		r := registry.Start(t, registry.Options{Plain: true})
		image.Pause(t).Push(t, r, "pause:1")
		hosts := t.TempDir()
		registry.WriteHosts(t, hosts, "registry.test", r.Mirror(t))
		d := daemon.Start(t, daemon.Options{
			Binary: binaries.Path(t, binaries.Stock), CRI: true, Config: criHosts(hosts), Pause: "registry.test/pause:1",
		})
		dir, address = d.Dir, d.Address
		if _, err := d.RunPod(t, "left"); err != nil {
			t.Fatal(err)
		}
		d.Ctr(t, "images", "pull", "--plain-http", r.Host()+"/pause:1")
		d.CtrRun(t, "default", r.Host()+"/pause:1", "c1", "/probe", "hello", "x")
		d.Kill()
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("got %v for %s, want it removed", err, dir)
	}
	if mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir)); err != nil || len(mounts) != 0 {
		t.Errorf("got mounts %v %v, want none", mounts, err)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		text, _ := os.ReadFile(p)
		cgroup, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cgroup"))
		if strings.Contains(string(text), address) || strings.Contains(string(cgroup), filepath.Base(dir)) {
			t.Errorf("got process %s %q, want none of ours", p, text)
		}
	}
	if after := strings.Join(state(), "\n"); after != before {
		t.Errorf("got files\n%s\nwant as before\n%s", after, before)
	}
}
