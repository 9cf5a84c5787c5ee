// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestUnconfiguredIsStock pulls with stock and with our containerd, with nothing configured, from the same registry:
// the same requests in the same order, the same image records, the same errors.
func TestUnconfiguredIsStock(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: ann})
	img := image.Multi(50)
	img.Push(t, r, "team/app:1")
	hosts := t.TempDir()
	open, shut := r.Mirror(t), r.Mirror(t)
	open.Authorization = "Basic YW5uOnMzY3JldA==" // ann:s3cret
	registry.WriteHosts(t, hosts, "registry.test", open)
	registry.WriteHosts(t, hosts, "shut.test", shut)
	refusing := registry.Refusing(t)
	registry.WriteHosts(t, hosts, "gone.test", registry.Mirror{URL: "https://" + refusing})
	registry.WriteHosts(t, hosts, refusing)

	names := map[string]string{"registry.test": "127.0.0.1", "shut.test": "127.0.0.1", "gone.test": "127.0.0.1"}
	stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock), CRI: true, Config: criHosts(hosts), Hosts: names})
	ours := startNode(t, "", daemon.Options{CRI: true, Config: criHosts(hosts), Hosts: names})

	const ref = "registry.test/team/app:1"
	digest := "registry.test/team/app@" + img.Digest.String()
	for _, tc := range []struct{ name, ref, wantErr string }{
		{"tag", ref, ""},
		{"digest", digest, ""},
		{"not found", "registry.test/team/none:1", "not found"},
		{"digest not found", "registry.test/team/app@sha256:" + strings.Repeat("0", 64), "not found"},
		{"unauthorized", "shut.test/team/app:1", "no basic auth credentials"},
		{"refused", refusing + "/team/app:1", "connection refused"},
		{"refused mirror", "gone.test/team/app:1", "connection refused"},
		{"upper case", "registry.test/Team/app:1", "invalid reference format"},
		{"empty", "", "invalid reference"},
		{"bad digest", "registry.test/team/app@sha256:12", "invalid reference format"},
		{"bad tag", "registry.test/team/app:-", "invalid reference format"},
		{"two slashes", "registry.test//team/app:1", "invalid reference format"},
	} {
		for _, c := range []client{clients[0], {"ctr", "default", pullCtrWith("--hosts-dir", hosts)}} {
			t.Run(tc.name+" by "+c.name, func(t *testing.T) {
				wantErr, wantLog := pullLogged(t, r, c, stock, tc.ref)
				gotErr, gotLog := pullLogged(t, r, c, ours.Daemon, tc.ref)
				if gotErr != wantErr {
					t.Errorf("got error\n%s\nwant stock's\n%s", gotErr, wantErr)
				}
				if gotLog != wantLog {
					t.Errorf("got requests\n%s\nwant stock's\n%s", gotLog, wantLog)
				}
				if tc.wantErr == "" && wantErr != "" || c.name == "CRI" && !strings.Contains(wantErr, tc.wantErr) {
					t.Errorf("got error %q of stock, want %q: the case is not what it says", wantErr, tc.wantErr)
				}
				if got, want := records(t, ours.Daemon, c.namespace), records(t, stock, c.namespace); !slices.Equal(got, want) {
					t.Errorf("got records\n%s\nwant stock's\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			})
		}
	}
	if got := records(t, ours.Daemon, "k8s.io"); len(got) < 3 {
		t.Errorf("got records %q, want those of the images that were pulled", got)
	}
	checkUnconfigured(t, ours)
}

// checkUnconfigured checks that running without any rule can be seen.
func checkUnconfigured(t *testing.T, n node) {
	t.Helper()
	if got := n.Log.Lines("level=warning", "has no rules"); len(got) != 1 {
		t.Errorf("got lines %q at the start, want one", got)
	}
	if got := n.Metrics(t); !strings.Contains(got, "\nberth_configured 0\n") {
		t.Errorf("got metrics\n%s\nwant berth_configured 0", grep(got, "berth_configured"))
	}
	out, _, code := berth(t, "status", "--address", n.Address)
	if !strings.Contains(out, "no rules") || code != 0 {
		t.Errorf("got status %d\n%s\nwant 0 and that there are no rules", code, out)
	}
}

func pullCtrWith(args ...string) func(testing.TB, *daemon.Daemon, string) error {
	return func(t testing.TB, d *daemon.Daemon, ref string) error {
		_, err := d.TryCtr(t, append(append([]string{"images", "pull"}, args...), ref)...)
		return err
	}
}

// volatile is what differs between any two runs: ports, sockets, times.
var volatile = regexp.MustCompile(`127\.0\.0\.1:\d+->|/tmp/berth\d+|time="[^"]*"`)

// pullLogged pulls and returns the error's text and the requests, without what differs between any two runs.
func pullLogged(t *testing.T, r *registry.Registry, c client, d *daemon.Daemon, ref string) (problem, requests string) {
	t.Helper()
	r.Log.Reset()
	if err := c.pull(t, d, ref); err != nil {
		problem = volatile.ReplaceAllString(err.Error(), "")
	}
	// What stands below a manifest is asked for in parallel.
	lines := strings.SplitAfter(r.Log.Lines(), "\n")
	for i := 0; i < len(lines); i++ {
		k := i
		for k < len(lines) && strings.Contains(lines[k], "/blobs/") {
			k++
		}
		slices.Sort(lines[i:k])
		i = max(i, k-1)
	}
	return problem, strings.Join(lines, "")
}

// records are the images of a namespace: name, target and labels.
func records(t *testing.T, d *daemon.Daemon, namespace string) []string {
	t.Helper()
	list, err := d.Client().ImageService().List(namespaces.WithNamespace(t.Context(), namespace))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, img := range list {
		all = append(all, fmt.Sprint(img.Name, img.Target, img.Labels))
	}
	slices.Sort(all)
	return all
}

// TestRootOfStock opens a root directory that stock wrote with ours, and ours with stock: images are there and are
// not pulled again, and a container that stock started lives on.
func TestRootOfStock(t *testing.T) {
	const pause, hello = "registry.test/pause:3.10", "registry.test/demo/hello:1"
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	for _, path := range []string{"", "edge/registry.test/"} {
		image.Pause(t).Push(t, r, path+"pause:3.10")
		image.Hello(t, "again").Push(t, r, path+"demo/hello:1")
		image.Small("linux/amd64", 60).Push(t, r, path+"later:1")
	}
	hosts, etc := t.TempDir(), t.TempDir()
	registry.WriteHosts(t, hosts, "registry.test", r.Mirror(t))
	write(t, etc+"/registry.toml", entry(t, r, "edge"))

	d := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock), CRI: true, Config: criHosts(hosts), Pause: pause})
	if err := pullCRI(t, d, hello); err != nil {
		t.Fatal(err)
	}
	pod, err := d.RunPod(t, "pod")
	if err != nil {
		t.Fatal(err)
	}
	r.Log.Reset()
	d.Restart(t, func(o *daemon.Options) {
		o.Binary = binaries.Path(t, binaries.Containerd)
		o.DropIns = map[string]string{"10-berth.toml": stanza(fmt.Sprintf("config_path = [%q]", etc+"/*.toml"))}
	})
	if got, want := pod.Run(t, "ours", hello), "hello again\n"; got != want {
		t.Errorf("got %q in stock's pod, want %q", got, want)
	}
	if err := pullCRI(t, d, hello); err != nil {
		t.Fatal(err)
	}
	if got := r.Log.Match("GET", "*/blobs/*"); len(got) != 0 {
		t.Errorf("got blobs asked for again: %v, want none", got)
	}
	if err := pullCRI(t, d, "registry.test/later:1"); err != nil {
		t.Fatal(err)
	}
	if len(r.Log.Match("GET", "/v2/edge/registry.test/later/blobs/*")) == 0 {
		t.Errorf("got no blob of the rewritten repository:\n%s", r.Log.Lines())
	}
	before := records(t, d, "k8s.io")
	d.Restart(t, func(o *daemon.Options) {
		o.Binary = binaries.Path(t, binaries.Stock) // our stanza stays, as a way back may leave it
	})
	if got := records(t, d, "k8s.io"); !slices.Equal(got, before) {
		t.Errorf("got records\n%s\nwant those from before\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
	}
	if err := image.Small("linux/amd64", 60).Compare(d.Rootfs(t, "k8s.io", "registry.test/later:1")); err != nil {
		t.Error(err)
	}
	if got, want := pod.Run(t, "stock", hello), "hello again\n"; got != want {
		t.Errorf("got %q in the pod after going back, want %q", got, want)
	}
	pod.Remove(t)
}

// TestUnpackNothing has a transfer service that is to unpack nothing: a pull that wants layers unpacked is refused, with
// rules as by stock.
func TestUnpackNothing(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	for _, path := range []string{"", "edge/registry.test/"} {
		image.Small("linux/amd64", 61).Push(t, r, path+"a:1")
	}
	hosts := t.TempDir()
	registry.WriteHosts(t, hosts, "registry.test", r.Mirror(t))
	opts := daemon.Options{Config: "version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\nunpack_config = []\n"}
	stock := opts
	stock.Binary = binaries.Path(t, binaries.Stock)
	for name, d := range map[string]*daemon.Daemon{"stock": daemon.Start(t, stock), "ours": startNode(t, entry(t, r, "edge"), opts).Daemon} {
		t.Run(name, func(t *testing.T) {
			wantError(t, pullCtrWith("--hosts-dir", hosts)(t, d, "registry.test/a:1"), "no unpack platforms defined")
		})
	}
}

// TestFailedUnpack pulls an image of which no layer is what its configuration says: what is said is of the first of them, as by
// stock, which unpacks one at a time.
func TestFailedUnpack(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{})
	wrong := image.NewLayer(image.Random("data", 62, 4096))
	wrong.DiffID = image.NewLayer(image.Random("data", 63, 4096)).DiffID
	for _, path := range []string{"", "edge/registry.test/"} {
		image.New(image.Config{Layers: []image.Layer{wrong, wrong, wrong}}).Push(t, r, path+"wrong:1")
	}
	hosts := t.TempDir()
	registry.WriteHosts(t, hosts, "registry.test", r.Mirror(t))
	opts := daemon.Options{CRI: true, Config: criHosts(hosts)}
	stock := opts
	stock.Binary = binaries.Path(t, binaries.Stock)
	const ref = "registry.test/wrong:1"
	want := pullCRI(t, daemon.Start(t, stock), ref)
	wantError(t, want, "wrong diff id")
	if got := pullCRI(t, startNode(t, "", opts).Daemon, ref); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got\n%s\nwant stock's\n%s", got, want)
	}
	got := pullCRI(t, startNode(t, entry(t, r, "edge"), opts).Daemon, ref)
	wantError(t, got, "wrong diff id")
	if strings.Contains(fmt.Sprint(got), "\n") {
		t.Errorf("along a rule: got\n%s\nwant one line", got)
	}
}

// Our containerd is 5 MB larger than stock's at most (P14).
func TestBinarySize(t *testing.T) {
	size := func(name string) int64 {
		info, err := os.Stat(binaries.Path(t, name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	if more := size(binaries.Containerd) - size(binaries.Stock); more > 5_000_000 {
		t.Errorf("got %d bytes more than stock, want 5,000,000 at most", more)
	}
}
