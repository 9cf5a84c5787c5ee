// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestClockJumps makes everything that the loader left, and the bundles, ten years older or younger (L26), as they are for a
// machine whose clock was set: nothing is loaded again, and nothing is waited for.
func TestClockJumps(t *testing.T) {
	daemon.RequireRoot(t)
	l := newLoading(t, "", daemon.Options{CRI: true})
	plain, packed := oneLayer(83, "registry.k8s.io/plain:1"), oneLayer(84, "registry.k8s.io/packed:1")
	l.bundle(t, "plain.tar", plain)
	l.put(t, "packed.tar.gz", image.Gzip(image.Tar(image.OCI([]image.Named{packed}))))
	l.put(t, "bad.tar", []byte("no bundle at all"))
	l.start(t)
	for _, years := range []int{10, -10} {
		l.Stop(t)
		l.age(t, years)
		before := l.blobs(t)
		start := time.Now()
		l.start(t)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%d years: got everything loaded after %s, want at most 5s", years, took)
		}
		l.wantBlobs(t, before)
		out, _ := l.status(t)
		for _, name := range []string{"plain.tar", "packed.tar.gz"} {
			if got := stateOf(out, filepath.Join(l.folder, name)); got != "present" {
				t.Errorf("%d years: got %s %s, want it present", years, name, got)
			}
		}
		l.wantLoaded(t, plain)
		l.wantLoaded(t, packed)
		checkClean(t, l.node, "k8s.io")
	}
}

// TestClockJumpsInLoad is TestClockJumps with a load that was killed: its lease holds what was committed, and an ingest is
// half-written. Neither has an end that the clock could bring about, and the next start goes on from there.
func TestClockJumpsInLoad(t *testing.T) {
	daemon.RequireRoot(t)
	for _, years := range []int{10, -10} {
		t.Run(fmt.Sprintf("%d years", years), func(t *testing.T) {
			t.Parallel()
			l := newLoading(t, "", daemon.Options{CRI: true, Level: "info"})
			small := image.NewLayer(image.Random("small", 85, 1000))
			img := image.New(image.Config{Layers: []image.Layer{small, image.NewLayer(image.Random("large", 86, 60<<20))}}).Name("quay.io/a:1")
			l.bundle(t, "a.tar", img)
			ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
			l.runLoading(t, func(before int) {
				within(t, 20*time.Second, "load of which a layer is there and another is not", func() bool {
					_, err := l.Client().ContentStore().Info(ctx, small.Digest)
					return err == nil && l.begun() || l.rounds() > before
				})
				l.Kill()
			})
			if !l.begun() {
				t.Fatal("got a load that ended, want one that was killed")
			}
			if aged := l.age(t, years); !slices.Contains(aged, "v1/k8s.io/leases/io.berth.load/createdat") {
				t.Errorf("got times %q in the database, want that of the loader's lease", aged)
			}
			before := l.blobs(t)
			l.start(t)
			if out, good := l.status(t); !good {
				t.Errorf("got status\n%s", out)
			}
			l.wantLoaded(t, img)
			if after := l.blobs(t); after[small.Digest] != before[small.Digest] {
				t.Errorf("got layer %s written again, want that of the load that was killed", small.Digest)
			}
			checkClean(t, l.node, "k8s.io")
			l.wantContent(t, img.Image)
			if l.begun() {
				t.Error("got the ingest left, want it gone")
			}
		})
	}
}

// ageBucket changes the times in a bucket of containerd's database, and in those within it.
func ageBucket(b *bolt.Bucket, path string, years int, aged *[]string) error {
	changed := map[string][]byte{}
	err := b.ForEach(func(key, value []byte) error {
		at := path + "/" + string(key)
		if value == nil {
			return ageBucket(b.Bucket(key), at, years, aged)
		}
		var when time.Time
		var err error
		switch string(key) {
		case "createdat", "updatedat", "expireat":
			if err = when.UnmarshalBinary(value); err == nil {
				changed[string(key)], err = when.AddDate(years, 0, 0).MarshalBinary()
			}
		case "containerd.io/gc.expire":
			if err = when.UnmarshalText(value); err == nil {
				changed[string(key)], err = when.AddDate(years, 0, 0).MarshalText()
			}
		default:
			return nil
		}
		*aged = append(*aged, at)
		return err
	})
	for key, value := range changed {
		err = errors.Join(err, b.Put([]byte(key), value))
	}
	return err
}
