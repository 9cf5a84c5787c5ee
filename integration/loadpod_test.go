// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestLoadedPods runs pods as kubelet does the static ones of a control plane: as soon as containerd serves, several at once,
// each with its sandbox first, while the images are still being loaded. The sandbox image is known by an alias. The one
// registry that could be asked is not.
func TestLoadedPods(t *testing.T) {
	daemon.RequireRoot(t)
	const alias = "k8s.gcr.io/pause:3.6"
	r := registry.Start(t, registry.Options{})
	var bundled []image.Named
	for i := range 3 {
		bundled = append(bundled, image.Hello(t, "from", fmt.Sprint("pod ", i)).Name(fmt.Sprintf("registry.k8s.io/hello:%d", i)))
	}
	var ballast []image.Named
	for i := range uint64(3) {
		ballast = append(ballast, image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", 400+i, 8<<20))}}).Name(fmt.Sprintf("registry.k8s.io/ballast:%d", i)))
	}
	l := newLoading(t, entry(t, r, "edge"), daemon.Options{CRI: true, Pause: alias}, "[plugins.\""+loaderURI+"\".aliases]\n\"k8s.gcr.io/pause:3.6\" = \"registry.k8s.io/pause:3.10\"\n\"absent.io/a:1\" = \"absent.io/b:1\"")
	pause := image.Pause(t).Name("registry.k8s.io/pause:3.10")
	l.put(t, "a.tar.gz", image.Gzip(image.Tar(image.DockerSave(ballast))))
	l.put(t, "b.tar.zst", image.Zstd(image.Tar(image.OCI(bundled))))
	l.put(t, "c.tar", image.Tar(image.DockerSave([]image.Named{pause})))
	round := l.runLoading(t, func(int) {}) // so that pods meet the load
	var work sync.WaitGroup
	for i, n := range bundled {
		work.Go(func() {
			pod, err := l.RunPod(t, fmt.Sprint("pod", i))
			if err != nil {
				t.Errorf("run pod %d: %v", i, err)
				return
			}
			if err := pullCRI(t, l.Daemon, n.Names[0]); err != nil { // AlwaysPullImages
				t.Error(err)
				return
			}
			if got, want := pod.Run(t, "hello", n.Names[0]), fmt.Sprintf("hello from pod %d\n", i); got != want {
				t.Errorf("got log %q, want %q", got, want)
			}
		})
	}
	work.Wait()
	l.waitRound(t, round)
	if got := r.Log.Requests(); len(got) != 0 {
		t.Errorf("got requests %v, want none", got)
	}
	// The manifest of a docker-save archive is made while loading, so that only CRI knows its digest.
	listed := l.criStatus(t, alias)
	if listed == nil || listed.Id != pause.ConfigDigest.String() || !listed.Pinned {
		t.Fatalf("got %v of the alias, want the pause image, pinned", listed)
	}
	if got := targets(t, l.Daemon, "k8s.io"); got[alias] == "" || got[alias] != got["registry.k8s.io/pause:3.10"] {
		t.Errorf("got targets %v, want the alias that of the name", got)
	}
	if got := l.criStatus(t, "absent.io/a:1"); got != nil {
		t.Errorf("got %v of an alias of nothing", got)
	}
	if out, good := l.status(t); !good {
		t.Errorf("got status\n%s", out)
	}
}
