// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// twoRegistries have the same images under the path edge, and different users.
func twoRegistries(t testing.TB, repositories int, delay time.Duration) (one, other *registry.Registry, text map[*registry.Registry]string) {
	t.Helper()
	daemon.RequireRoot(t)
	storage := t.TempDir()
	one = registry.Start(t, registry.Options{Users: ann, Delay: delay, Storage: storage})
	other = registry.Start(t, registry.Options{Users: map[string]string{"bob": "s3same"}, Delay: delay, Storage: storage})
	img := image.Small("linux/amd64", 90)
	for i := range repositories {
		img.Push(t, one, fmt.Sprintf("edge/quay.io/a%d:1", i)) // and so the other has it
	}
	return one, other, map[*registry.Registry]string{
		one:   entry(t, one, "edge", login("ann", "s3cret")),
		other: entry(t, other, "edge", login("bob", "s3same")),
	}
}

// TestReload changes the configuration of a running node in the ways of editors, of tools and of Kubernetes' ConfigMaps (H4). Each
// change is in force for the very next pull, of whichever client, and what cannot be used leaves what was before.
func TestReload(t *testing.T) {
	one, other, text := twoRegistries(t, 10, 0)
	n := startNode(t, text[one], daemon.Options{CRI: true})
	file := filepath.Join(n.etc, "registry.toml")
	pulls := 0
	pulled := func(change string, from, not *registry.Registry) {
		t.Helper()
		c := clients[pulls%len(clients)]
		one.Log.Reset()
		other.Log.Reset()
		ref := fmt.Sprintf("quay.io/a%d:1", pulls)
		pulls++
		if err := c.pull(t, n.Daemon, ref); err != nil {
			t.Fatalf("%s: pull with %s: %v", change, c.name, err)
		}
		if len(from.Log.Match("", "/v2/edge/*")) == 0 || len(not.Log.Requests()) > 0 {
			t.Errorf("%s: got with %s\n%s\nand at the other\n%s\nwant requests at the first alone", change, c.name, from.Log.Lines(), not.Log.Lines())
		}
	}
	pulled("at start", one, other)
	write(t, file, text[other])
	pulled("written in place", other, one)
	n.configure(t, "registry.toml", text[one])
	pulled("renamed over", one, other)

	// A volume of a ConfigMap: files are links into ..data, which is a link to a directory.
	for name, r := range map[string]*registry.Registry{"..1": one, "..2": other} {
		write(t, filepath.Join(n.etc, name, "registry.toml"), text[r])
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(n.etc, name+".new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(n.etc, name+".new"), filepath.Join(n.etc, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/registry.toml", "registry.toml")
	pulled("as a ConfigMap", one, other)
	link("..2", "..data")
	pulled("the ConfigMap changed", other, one)

	// What is bad is refused without a pull, and seen.
	n.configure(t, "registry.toml", text[one]+"[[rules]]\nfrom = 1\n")
	status := ""
	within(t, 5*time.Second, "refused change", func() bool {
		out, _, code := berth(t, "status", "--address", n.Address)
		status = out
		return code == 1 && strings.Contains(out, "a change is refused since ") && strings.Contains(out, "rules[0].from: is a number; want text in quotes")
	})
	if !strings.Contains(status, "pulls go along 1 rule to 1 registry, since ") || !strings.Contains(status, "registry: "+other.Host()+"/edge") {
		t.Errorf("got status\n%s\nwant what is in force as well", status)
	}
	if m := n.Metrics(t); !strings.Contains(m, "\nberth_config_last_reload_successful 0\n") || !strings.Contains(m, "\nberth_config_reloads_total{outcome=\"refused\"} 1\n") {
		t.Errorf("got metrics without the refused change:\n%s", m)
	}
	pulled("a bad change", other, one)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	pulled("deleted", other, one)
	n.configure(t, "registry.toml", text[one])
	within(t, 5*time.Second, "mend in force without a pull", func() bool {
		out, _, code := berth(t, "status", "--address", n.Address)
		return code == 0 && strings.Contains(out, "registry: "+one.Host()+"/edge")
	})
	pulled("mended", one, other)
	if got := len(n.Log.Lines("change of the resolver's configuration refused")); got != 2 {
		t.Errorf("got %d lines of refused changes, want 2: the mistake, and no file at all", got)
	}
}

// resources are what a daemon holds: file descriptors, and what its inotify descriptors watch.
func resources(t testing.TB, pid int) (descriptors, watches int) {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil || len(infos) == 0 {
		t.Fatalf("got no file descriptors of %d: %v", pid, err)
	}
	for _, info := range infos {
		text, _ := os.ReadFile(info)
		watches += strings.Count(string(text), "inotify wd:")
	}
	return len(infos), watches
}

// goroutines are those that the daemon's metrics count.
func goroutines(t testing.TB, d *daemon.Daemon) (count int) {
	t.Helper()
	_, rest, ok := strings.Cut(d.Metrics(t), "\ngo_goroutines ")
	if _, err := fmt.Sscan(rest, &count); !ok || err != nil {
		t.Fatalf("got no go_goroutines: %v", err)
	}
	return count
}

var reloadChanges = flag.Int("reload.changes", 50, "changes of the configuration in the test that pulls meanwhile")

// TestReloadUnderLoad pulls by fifty at once while registry, rules and password change twenty times a second (H1, P6). Either
// configuration serves them, so none fails; each is served by one configuration from its first request to its last, with that
// one's credential; nothing leaks.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel() // since connections that pulls of old configurations used stay open for half a minute
	const workers = 50
	one, other, text := twoRegistries(t, 1, 20*time.Millisecond) // so that there is a change within most of the pulls
	n := startNode(t, text[one], daemon.Options{Level: "info"})
	ctx := namespaces.WithNamespace(t.Context(), "go")
	if err := transferIn(ctx, n.Daemon, "quay.io/a0:1"); err != nil {
		t.Fatal(err)
	}
	descriptors, watches := resources(t, n.PID())
	running := goroutines(t, n.Daemon)
	one.Log.Reset()
	other.Log.Reset()

	refs := make(chan string, 4**reloadChanges) // which is more than there is time for
	for i := range cap(refs) {
		img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("file", 100_000+uint64(i), 1000))}}) // no other has any of it
		ref := fmt.Sprintf("quay.io/b%d:1", i)
		img.Push(t, one, "edge/"+ref)
		refs <- ref
	}
	var working sync.WaitGroup
	var pulls atomic.Int64
	done := make(chan struct{})
	for range workers {
		working.Go(func() {
			for {
				select {
				case <-done:
					return
				case ref := <-refs:
					pulls.Add(1)
					if err := fetchIn(ctx, n.Daemon, ref); err != nil {
						t.Errorf("pull %s: %v", ref, err)
					}
				}
			}
		})
	}
	for i := range *reloadChanges {
		time.Sleep(50 * time.Millisecond)
		n.configure(t, "registry.toml", text[[]*registry.Registry{other, one}[i%2]])
		working.Go(func() { // a change is in force when the next pull begins, and not before if there are many
			if err := transferIn(ctx, n.Daemon, "quay.io/a0:1"); err != nil {
				t.Errorf("pull after change %d: %v", i, err)
			}
		})
	}
	close(done)
	working.Wait()

	from := map[string]map[*registry.Registry]int{} // requests by repository
	for _, r := range []*registry.Registry{one, other} {
		for _, request := range r.Log.Match("", "/v2/*") {
			if request.Status == 401 && request.Auth != "" {
				t.Errorf("got %s, want no registry to see the credential of the other", request)
			}
			repository, _, _ := strings.Cut(strings.TrimPrefix(request.Path, "/v2/edge/quay.io/"), "/")
			if repository == "a0" { // of many pulls
				continue
			}
			if from[repository] == nil {
				from[repository] = map[*registry.Registry]int{}
			}
			from[repository][r]++
		}
	}
	served := map[*registry.Registry]int{}
	for repository, requests := range from {
		if len(requests) > 1 {
			t.Errorf("got %d requests of %s at one registry and %d at the other, want all at one", requests[one], repository, requests[other])
		}
		for r := range requests {
			served[r]++
		}
	}
	var generations int
	_, metric, _ := strings.Cut(n.Metrics(t), "\nberth_config_generation ")
	if _, err := fmt.Sscan(metric, &generations); err != nil || generations < *reloadChanges/4 {
		t.Errorf("got %d generations %v, want a good part of %d changes in force for a while", generations, err, *reloadChanges)
	}
	t.Logf("%d pulls, %d generations", pulls.Load(), generations)
	if len(from) != int(pulls.Load()) || served[one] < len(from)/10 || served[other] < len(from)/10 {
		t.Errorf("got %d pulls served by one and %d by the other of %d, want a good part by each", served[one], served[other], pulls.Load())
	}
	within(t, time.Minute, "return to what was held before", func() bool {
		d, w := resources(t, n.PID())
		return d <= descriptors+5 && w <= watches+1 && goroutines(t, n.Daemon) <= running+10
	})
}

// TestHangUp sends the signal that makes other daemons read their configuration again (H7): containerd has no reload, and ends of
// it, ours as stock.
func TestHangUp(t *testing.T) {
	daemon.RequireRoot(t)
	// Where the test itself was started with the signal ignored, as nohup does, the daemons would ignore it, too.
	hangUps := make(chan os.Signal, 1)
	signal.Notify(hangUps, syscall.SIGHUP)
	defer signal.Stop(hangUps)
	for _, program := range []string{binaries.Stock, binaries.Containerd} {
		t.Run(program, func(t *testing.T) {
			d := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, program)})
			d.Signal(syscall.SIGHUP)
			select {
			case <-d.Done():
			case <-time.After(10 * time.Second):
				t.Error("got a daemon that runs on, want one that ends")
			}
		})
	}
}
