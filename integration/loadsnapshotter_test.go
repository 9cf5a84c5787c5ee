// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestLoadSnapshotters loads into another snapshotter than containerd's own, and into one that there is not (L27).
func TestLoadSnapshotters(t *testing.T) {
	daemon.RequireRoot(t)
	lower := image.NewLayer(image.Program(t), image.Random("etc/replaced", 904, 5000))
	img := image.New(image.Config{Layers: []image.Layer{lower, image.NewLayer(image.Random("etc/replaced", 905, 60_000))}}).Name("quay.io/a:1")
	t.Run("native", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{Level: "info"}, `snapshotter = "native"`)
		l.bundle(t, "a.tar", img)
		l.start(t)
		if out, good := l.status(t); !good {
			t.Fatalf("got status\n%s", out)
		}
		for snapshotter, want := range map[string]int{"native": len(img.Layers), "overlayfs": 0} {
			if got := strings.Count(l.Ctr(t, "-n", "k8s.io", "snapshots", "--snapshotter", snapshotter, "ls"), "Committed"); got != want {
				t.Errorf("got %d snapshots of %s, want %d", got, snapshotter, want)
			}
		}
		if err := img.Compare(l.RootfsOf(t, "native", "k8s.io", "quay.io/a:1")); err != nil {
			t.Error(err)
		}
		l.restart(t)
		if out, good := l.status(t); !good || stateOf(out, filepath.Join(l.folder, "a.tar")) != "present" {
			t.Errorf("got status after a restart\n%s\nwant the bundle present", out)
		}
	})
	t.Run("absent", func(t *testing.T) {
		l := newLoading(t, "", daemon.Options{Level: "info"}, `snapshotter = "absent"`)
		l.bundle(t, "a.tar", img)
		if err := l.Run(t); err != nil {
			t.Fatal(err)
		}
		var out string
		within(t, 10*time.Second, "an error that names the snapshotter", func() bool {
			text, good := l.status(t)
			out = text
			return !good && strings.Contains(text, `"absent"`)
		})
		if lines := l.Log.Lines("level=error", "absent"); len(lines) != 1 {
			t.Errorf("got lines %q, want one error; status\n%s", lines, out)
		}
	})
}
