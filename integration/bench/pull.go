// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

const (
	user, password = "node", "bench-password"
	prefix         = "images" // the registry's path
	upstream       = "quay.io"
	delay          = 20 * time.Millisecond
	small          = 20
)

// newRegistry is a TLS registry with token authentication.
func newRegistry(tb testing.TB, delay time.Duration) *registry.Registry {
	return registry.Start(tb, registry.Options{
		Delay: delay,
		Tokens: &registry.Tokens{Users: map[string]registry.User{
			user: {Password: password, Scopes: []string{"repository:*:pull"}},
		}},
	})
}

// side is one daemon that is measured.
type side struct {
	*daemon.Daemon
	images cri.ImageServiceClient
	auth   *cri.AuthConfig
}

// startSides starts the three daemons, all of which pull upstream's images from r.
func startSides(tb testing.TB, r *registry.Registry, programs [sides]string) [sides]*side {
	var all [sides]*side
	for i := range all {
		s := &side{}
		opts := daemon.Options{Binary: copied(tb, programs[i]), CRI: true, Level: "warn", Pause: upstream + "/pause:1"}
		if i == ours {
			opts.Config = berthConfig(tb, r)
		} else {
			opts.Config = stockConfig(tb, r)
			s.auth = &cri.AuthConfig{Username: user, Password: password}
		}
		s.Daemon = daemon.Start(tb, opts)
		s.images, _ = s.CRI(tb)
		all[i] = s
	}
	return all
}

func berthConfig(tb testing.TB, r *registry.Registry) string {
	const plugin = `plugins."io.containerd.resolver.v1.external-registry"`
	file := filepath.Join(tb.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		tb.Fatal(err)
	}
	return fmt.Sprintf("version = 3\n[%s]\nconfig_path = []\n[[%s.registries]]\ndomain = %q\nusername = %q\npassword_file = %q\ncertificates = [%q]\n",
		plugin, plugin, r.Host()+"/"+prefix, user, file, r.CA.File(tb))
}

// stockConfig has stock do the same with a hosts.toml, below one directory, or CRI would ignore it.
func stockConfig(tb testing.TB, r *registry.Registry) string {
	dir := tb.TempDir()
	registry.WriteHosts(tb, dir, upstream, registry.Mirror{
		URL: r.URL() + "/v2/" + prefix + "/" + upstream, CA: r.CA.File(tb), OverridePath: true,
	})
	return fmt.Sprintf("version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = %q\n", dir)
}

func (s *side) pull(tb testing.TB, ref string) error {
	_, err := s.images.PullImage(tb.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: s.auth})
	return err
}

// forget removes every image with its content, so that the next pull is a cold one.
func (s *side) forget(tb testing.TB) {
	ctx := namespaces.WithNamespace(tb.Context(), "k8s.io")
	store := s.Client().ImageService()
	all, err := store.List(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	for i, img := range all {
		var opts []images.DeleteOpt
		if i == len(all)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := store.Delete(ctx, img.Name, opts...); err != nil {
			tb.Fatal(err)
		}
	}
}

// measure times f on each side in each round, with a daemon that was just started: it has no connections and no tokens,
// as on a node that pulls its images for the first time. It checks what the registry was asked, and forgets the images.
func measure(tb testing.TB, r *registry.Registry, all [sides]*side, rounds, manifests int, f func(*side) error) (samples, [sides]registry.Counts, [sides][]registry.Request) {
	var s samples
	var counts [sides]registry.Counts
	var requests [sides][]registry.Request
	for round := -1; round < rounds; round++ { // the first warms up, and does not count
		for _, i := range abba(round + 2) {
			all[i].Restart(tb, nil)
			all[i].images, _ = all[i].CRI(tb)
			r.Log.Reset()
			start := time.Now()
			if err := f(all[i]); err != nil {
				tb.Fatalf("%s: %v\n%s", sideNames[i], err, all[i].Log.Tail(20))
			}
			took := time.Since(start)
			asked := r.Log.Match("GET", "/v2/"+prefix+"/"+upstream+"/*/manifests/*")
			if len(asked) < manifests {
				tb.Fatalf("%s: got %d manifests from the registry, want %d: it does not go where it should\n%s", sideNames[i], len(asked), manifests, r.Log.Lines())
			}
			if round >= 0 {
				s[i] = append(s[i], took.Seconds())
				counts[i], requests[i] = r.Log.Counts(), r.Log.Requests()
			}
			all[i].forget(tb)
		}
	}
	return s, counts, requests
}

func benchSmallImages(tb testing.TB, t *table, rounds int) {
	r := newRegistry(tb, delay)
	var refs []string
	for i := range small {
		name := fmt.Sprintf("bench/small-%d:1", i)
		image.Small("linux/amd64", uint64(i+1)).Push(tb, r, prefix+"/"+upstream+"/"+name)
		refs = append(refs, upstream+"/"+name)
	}
	all := startSides(tb, r, sameFlags(tb))
	one := func(s *side) error {
		for _, ref := range refs {
			if err := s.pull(tb, ref); err != nil {
				return err
			}
		}
		return nil
	}
	atOnce := func(s *side) error {
		var g errgroup.Group
		for _, ref := range refs {
			g.Go(func() error { return s.pull(tb, ref) })
		}
		return g.Wait()
	}
	for _, b := range []struct {
		what string
		f    func(*side) error
	}{
		{fmt.Sprintf("%d small images, one after another, %v", small, delay), one},
		{fmt.Sprintf("%d small images, all at once, %v", small, delay), atOnce},
	} {
		s, counts, requests := measure(tb, r, all, rounds, small, b.f)
		t.row(b.what, "s", s)
		for _, i := range []int{ours, stock} {
			t.note("%s: %d requests, of these %d for tokens; %d connections, %d TLS handshakes", sideNames[i],
				len(requests[i]), tokens(requests[i]), counts[i].Conns, counts[i].Handshakes)
		}
	}
	for _, s := range all {
		s.Stop(tb)
	}
}

func tokens(requests []registry.Request) (n int) {
	for _, r := range requests {
		if strings.HasPrefix(r.Path, "/token") {
			n++
		}
	}
	return n
}

func benchLargeImage(tb testing.TB, t *table, rounds int) {
	const layers, size = 4, 100 << 20
	r := newRegistry(tb, 0)
	var c image.Config
	for i := range layers {
		c.Layers = append(c.Layers, image.NewLayer(image.Random(fmt.Sprintf("data-%d", i), uint64(i+1), size)))
	}
	image.New(c).Push(tb, r, prefix+"/"+upstream+"/bench/large:1")
	all := startSides(tb, r, sameFlags(tb))
	s, _, _ := measure(tb, r, all, rounds, 1, func(s *side) error { return s.pull(tb, upstream+"/bench/large:1") })
	t.row(fmt.Sprintf("one image, %d layers of %d MiB", layers, size>>20), "s", s)
	for _, s := range all {
		s.Stop(tb)
	}
}
