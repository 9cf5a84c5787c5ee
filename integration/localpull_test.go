// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

const criImages = "io.containerd.cri.v1.images"

// criSetting is a drop-in with a setting of CRI's image plugin.
func criSetting(text string) string {
	return fmt.Sprintf("version = 3\n[plugins.%q]\n%s\n", criImages, text)
}

// TestLocalPullTakenOver has each setting of CRI that would make it pull past the transfer service, and that has an
// equivalent there (R30): CRI is up and says what is done about it, and its pulls go to the rewritten registry. The
// same pull with stock goes to the host of the name, where nothing listens.
func TestLocalPullTakenOver(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: ann})
	image.Small("linux/amd64", 80).Push(t, r, "edge/registry.test/a:1")
	for _, tc := range []struct{ key, setting, want string }{
		{"use_local_image_pull", "use_local_image_pull = true", "taken over: CRI pulls through the transfer service"},
		{"disable_snapshot_annotations", "disable_snapshot_annotations = false", "taken over: a local snapshotter has no use for annotations"},
		{"discard_unpacked_layers", "discard_unpacked_layers = true", "taken over: layers that are unpacked are discarded by Berth"},
		{"max_concurrent_downloads", "max_concurrent_downloads = 7", "taken over: the limit of 7 holds for every pull"},
		{"image_pull_with_sync_fs", "image_pull_with_sync_fs = true", "taken over: layers are always synced"},
	} {
		t.Run(tc.key, func(t *testing.T) {
			n := startNode(t, entry(t, r, "edge", login("ann", "s3cret")), daemon.Options{
				CRI: true, Config: criSetting(tc.setting), Hosts: map[string]string{"registry.test": "127.0.0.1"},
			})
			r.Log.Reset()
			if err := pullCRI(t, n.Daemon, "registry.test/a:1"); err != nil {
				t.Error(err)
			}
			if len(r.Log.Match("GET", "/v2/edge/registry.test/a/blobs/*")) == 0 {
				t.Errorf("got no blob of the rewritten repository:\n%s", r.Log.Lines())
			}
			key := criImages + `\".` + tc.key
			if got := n.Log.Lines("level=warning", key, tc.want); len(got) != 1 {
				t.Errorf("got lines %q, want one warning of %s", got, tc.key)
			}
			if got := n.Log.Lines("Falling back to local image pull"); len(got) != 0 {
				t.Errorf("got lines %q of CRI, want it to go through the transfer service", got)
			}
			_, problems, code := berth(t, "config", "check", "--config", n.ConfigFile())
			want := fmt.Sprintf("warning: plugins.%q.%s: %s\n", criImages, tc.key, tc.want)
			if problems != want || code != 0 {
				t.Errorf("got config check %d\n%swant 0\n%s", code, problems, want)
			}
			out, _, _ := berth(t, "status", "--address", n.Address)
			if !strings.Contains(out, "cri: plugins.") || !strings.Contains(out, tc.want) {
				t.Errorf("got status\n%s\nwant it to say %q", out, tc.want)
			}
		})
	}
}

// TestLocalPullOtherSnapshotter has CRI's own pull unpack for a snapshotter that the transfer service's stanza does not name,
// which stock needs the setting for. Taken over, with rules and without, and with layers discarded, containers run as with stock.
func TestLocalPullOtherSnapshotter(t *testing.T) {
	daemon.RequireRoot(t)
	const pause, ref = "registry.test/pause:3.10", "registry.test/hello:1"
	r := registry.Start(t, registry.Options{})
	hosts := t.TempDir()
	registry.WriteHosts(t, hosts, "registry.test", r.Mirror(t))
	for _, path := range []string{"", "edge/registry.test/"} {
		image.Pause(t).Push(t, r, path+"pause:3.10")
		image.Hello(t, "native").Push(t, r, path+"hello:1")
	}
	opts := daemon.Options{
		CRI: true, Pause: pause,
		Config: criSetting("use_local_image_pull = true\ndiscard_unpacked_layers = true\nsnapshotter = \"native\"") +
			fmt.Sprintf("[plugins.%q.registry]\nconfig_path = %q\n", criImages, hosts),
	}
	for _, tc := range []struct {
		name  string
		start func(*testing.T) *daemon.Daemon
	}{
		{"stock", func(t *testing.T) *daemon.Daemon {
			stock := opts
			stock.Binary = binaries.Path(t, binaries.Stock)
			return daemon.Start(t, stock)
		}},
		{"without rules", func(t *testing.T) *daemon.Daemon { return startNode(t, "", opts).Daemon }},
		{"with rules", func(t *testing.T) *daemon.Daemon { return startNode(t, entry(t, r, "edge"), opts).Daemon }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := tc.start(t)
			if err := pullCRI(t, n, ref); err != nil {
				t.Fatal(err)
			}
			collectGarbage(t, n.Client(), "k8s.io")
			pod, err := n.RunPod(t, "pod")
			if err != nil {
				t.Fatal(err)
			}
			if got, want := pod.Run(t, "hello", ref), "hello native\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			pod.Remove(t)
		})
	}
}

// refusedSettings are those without an equivalent. Each takes CRI to host, in its own way.
var refusedSettings = []struct{ key, setting string }{
	{"registry.mirrors", `[plugins.%q.registry.mirrors."registry.test"]` + "\nendpoint = [\"http://HOST\"]"},
	{"registry.configs", `[plugins.%q.registry.configs."registry.test".auth]` + "\nusername = \"u\"\npassword = \"p\""},
	{"registry.auths", `[plugins.%q.registry.auths."https://registry.test"]` + "\nusername = \"u\"\npassword = \"p\""},
}

// TestLocalPullRefused has each setting without an equivalent: CRI is refused, naming it; ctr goes along the rules.
func TestLocalPullRefused(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	image.Small("linux/amd64", 81).Push(t, r, "edge/registry.test/a:1")
	cases := append(refusedSettings[:3:3], struct{ key, setting string }{"snapshotter",
		"snapshotter = \"lazy\"\n[proxy_plugins.lazy]\ntype = \"snapshot\"\naddress = \"/absent.sock\"\n" +
			"[proxy_plugins.lazy.exports]\nenable_remote_snapshot_annotations = \"true\""})
	for _, tc := range cases {
		t.Run(tc.key, func(t *testing.T) {
			setting := tc.setting
			if strings.Contains(setting, "%q") {
				setting = strings.ReplaceAll(fmt.Sprintf(setting, criImages), "HOST", "127.0.0.1:1")
			}
			n := startNode(t, entry(t, r, "edge"), daemon.Options{Config: criSetting(setting)})
			problem := initError(t, n.Daemon, criImages)
			want := fmt.Sprintf("plugins.%q.%s: ", criImages, tc.key)
			if !strings.Contains(problem, "CRI is refused, since it would pull past the rules: "+want) {
				t.Errorf("got error %q of CRI, want it refused because of %s", problem, want)
			}
			if !strings.Contains(problem, "remove it") && !strings.Contains(problem, "use a local snapshotter") {
				t.Errorf("got error %q of CRI, want it to say what to do", problem)
			}
			if err := pullCRI(t, n.Daemon, "registry.test/a:1"); err == nil || !strings.Contains(err.Error(), "ImageService") {
				t.Errorf("got %v of a pull through CRI, want no such service", err)
			}
			_, problems, code := berth(t, "config", "check", "--config", n.ConfigFile())
			if !strings.Contains(problems, "error: ") || !strings.Contains(problems, want) || code != 1 {
				t.Errorf("got config check %d\n%swant 1 and an error of %s", code, problems, want)
			}
			if err := pullCtr(t, n.Daemon, "registry.test/a:1"); err != nil {
				t.Errorf("ctr: %v", err)
			}
			if out, _, code := berth(t, "status", "--address", n.Address); code != 1 || !strings.Contains(out, want) || !strings.Contains(out, "PULLS OF CRI ARE REFUSED") {
				t.Errorf("got status %d\n%s\nwant 1, that pulls of CRI are refused, and %s", code, out, want)
			}
		})
	}
}

// TestLocalPullVersion2 has such settings where version 2 has them, as k3s and EKS write them.
func TestLocalPullVersion2(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	n := startNode(t, entry(t, r, "edge"), daemon.Options{Version: 2, CRI: true, DropIns: map[string]string{
		"60-cri.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nmax_concurrent_downloads = 9\n" +
			"[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndiscard_unpacked_layers = true\ndisable_snapshot_annotations = false\n" +
			// Without a runtime in the same file, containerd's migration drops the two settings above.
			"[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n",
	}})
	for _, key := range []string{"max_concurrent_downloads", "discard_unpacked_layers", "disable_snapshot_annotations"} {
		if got := n.Log.Lines("level=warning", key, "taken over"); len(got) != 1 {
			t.Errorf("got lines %q, want one warning of %s", got, key)
		}
	}
	n.Stop(t)
	n = startNode(t, entry(t, r, "edge"), daemon.Options{Version: 2, DropIns: map[string]string{
		"60-cri.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"registry.test\"]\nendpoint = [\"http://127.0.0.1:1\"]\n",
	}})
	if got, want := initError(t, n.Daemon, criImages), "registry.mirrors: CRI would pull past the rules"; !strings.Contains(got, want) {
		t.Errorf("got error %q of CRI, want %q", got, want)
	}
}

// initError returns why a plugin did not load.
func initError(t *testing.T, d *daemon.Daemon, uri string) string {
	t.Helper()
	resp, err := d.Client().IntrospectionService().Plugins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range resp.Plugins {
		if p.Type+"."+p.ID == uri {
			return p.GetInitErr().GetMessage()
		}
	}
	t.Fatalf("got no plugin %s", uri)
	return ""
}

// TestLocalPullUnconfigured has the same settings with nothing configured: CRI is stock's. Once rules appear, CRI's pulls
// are refused, of images and of a pod's own, and nothing is asked of a mirror or of the host of the name; ctr goes along the rules.
func TestLocalPullUnconfigured(t *testing.T) {
	daemon.RequireRoot(t)
	const pause = "registry.test/pause:3.10"
	mirror := registry.Start(t, registry.Options{Plain: true})
	external := registry.Start(t, registry.Options{})
	for _, name := range []string{"a:1", "b:1"} {
		img := image.Small("linux/amd64", 82)
		img.Push(t, mirror, name)
		img.Push(t, external, "edge/registry.test/"+name)
	}
	for _, tc := range refusedSettings {
		t.Run(tc.key, func(t *testing.T) {
			setting := strings.ReplaceAll(fmt.Sprintf(tc.setting, criImages), "HOST", mirror.Host())
			hosts := map[string]string{"registry.test": "127.0.0.1"} // where nothing listens on 443
			n := startNode(t, "", daemon.Options{CRI: true, Config: criSetting(setting), Hosts: hosts, Pause: pause})
			_, problems, code := berth(t, "config", "check", "--config", n.ConfigFile())
			if code != 0 || !strings.Contains(problems, "warning: plugins.") {
				t.Errorf("got config check %d\n%s\nwant 0 and a warning", code, problems)
			}
			err := pullCRI(t, n.Daemon, "registry.test/a:1")
			if tc.key == "registry.mirrors" && err != nil {
				t.Errorf("got %v without rules, want the mirror's", err)
			}
			if tc.key != "registry.mirrors" {
				wantError(t, err, "connection refused")
			}
			mirror.Log.Reset()
			n.configure(t, "registry.toml", entry(t, external, "edge"))
			time.Sleep(300 * time.Millisecond) // how often a daemon without rules looks for some
			const want = "pulls of CRI are refused: rules came into force after containerd started"
			wantError(t, pullCRI(t, n.Daemon, "registry.test/b:1"), want, "restart containerd")
			_, err = n.RunPod(t, "pod")
			wantError(t, err, want)
			if got := mirror.Log.Lines(); len(got) != 0 {
				t.Errorf("got requests to the mirror, want none:\n%s", got)
			}
			if err := pullCtr(t, n.Daemon, "registry.test/b:1"); err != nil {
				t.Errorf("ctr: %v", err)
			}
			if got := n.Log.Lines("level=error", want); len(got) == 0 {
				t.Error("got no line that pulls of CRI are refused")
			}
			out, _, code := berth(t, "status", "--address", n.Address)
			if code != 1 || !strings.Contains(out, "PULLS OF CRI ARE REFUSED") {
				t.Errorf("got status %d\n%s\nwant 1 and that pulls of CRI are refused", code, out)
			}
		})
	}
}
