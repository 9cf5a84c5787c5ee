// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package unpacked_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/loader/storetest"
	"github.com/berth-edge/berth/loader/unpacked"
)

// committed returns a database with one snapshot, "top", that is kept and holds one file.
func committed(t *testing.T) (context.Context, *metadata.DB, snapshots.Snapshotter) {
	t.Helper()
	db, _ := storetest.New(t)
	ctx, s := namespaces.WithNamespace(t.Context(), "test"), db.Snapshotter("native")
	kept := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "kept"})
	mounts, err := s.Prepare(ctx, "active", "", kept)
	if err == nil {
		err = os.WriteFile(filepath.Join(mounts[0].Source, "file"), nil, 0o600)
	}
	if err == nil {
		err = s.Commit(ctx, "top", "active", kept)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ctx, db, s
}

// TestLookIsNotCollected has garbage be collected while somebody looks: what is looked at stays, and can be removed afterwards.
func TestLookIsNotCollected(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	ctx, db, s := committed(t)
	err := unpacked.NewLooks().Look(ctx, s, "top", func(dir string) error {
		if _, err := db.GarbageCollect(ctx); err != nil {
			return err
		}
		_, err := os.Stat(filepath.Join(dir, "file"))
		return err
	})
	if err != nil {
		t.Errorf("got %v, want the file to be there", err)
	}
	if err := s.Remove(ctx, "top"); err != nil {
		t.Errorf("got %v, want the snapshot removed", err)
	}
}

// killed ends before it removes anything.
type killed struct{ snapshots.Snapshotter }

func (killed) Remove(context.Context, string) error { return errors.New("killed") }

// TestEndLooks has a look be cut short: it is ended by the looks of another start, and not by those of its own.
func TestEndLooks(t *testing.T) {
	ctx, _, s := committed(t)
	own := unpacked.NewLooks()
	_, _ = own.Directories(ctx, killed{s}, "top")
	if !own.Open() {
		t.Error("got no look, want that which was not removed")
	}
	for _, tt := range []struct {
		looks   *unpacked.Looks
		removed bool
	}{{own, false}, {unpacked.NewLooks(), true}} {
		if err := tt.looks.EndOthers(ctx, s); err != nil {
			t.Error(err)
		}
		if err := s.Remove(ctx, "top"); (err == nil) != tt.removed {
			t.Errorf("got %v of the snapshot that was looked at, want it removed: %t", err, tt.removed)
		}
	}
}
