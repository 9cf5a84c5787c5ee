// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package unpacked

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// Looks are the views that one start of containerd makes to look at snapshots.
type Looks struct {
	id   string // in their names, to tell them from those of another start
	open atomic.Int64
}

// lookPrefix begins the name of every look.
const lookPrefix = "berth-look-"

// NewLooks returns the looks of this start.
func NewLooks() *Looks { return &Looks{id: rand.Text()} }

// Open reports whether there are any that did not end.
func (l *Looks) Open() bool { return l.open.Load() > 0 }

// Directories returns the directories that the layers of a committed snapshot were unpacked to, the lowest first. Only the
// overlay snapshotter has one for each; of others it is ErrNotImplemented: see [Looks.Look].
func (l *Looks) Directories(ctx context.Context, s snapshots.Snapshotter, chainID string) (dirs []string, err error) {
	err = l.view(ctx, s, chainID, func(mounts []mount.Mount) (err error) {
		dirs, err = directories(mounts)
		return err
	})
	return dirs, err
}

// Look calls f with a directory at which a committed snapshot is mounted meanwhile, read-only.
func (l *Looks) Look(ctx context.Context, s snapshots.Snapshotter, chainID string, f func(dir string) error) error {
	return l.view(ctx, s, chainID, func(mounts []mount.Mount) error {
		return mount.WithReadonlyTempMount(ctx, mounts, f)
	})
}

// view keeps garbage collection from its view, which would take it while it is looked at; and which does not take the link that
// the snapshot has to it, so that containerd would not let the snapshot be removed any more.
func (l *Looks) view(ctx context.Context, s snapshots.Snapshotter, chainID string, f func([]mount.Mount) error) (err error) {
	l.open.Add(1)
	removed := true
	defer func() {
		if removed {
			l.open.Add(-1)
		}
	}()
	if err := ctx.Err(); err != nil { // so that none begins while containerd ends
		return err
	}
	key := lookPrefix + l.id + "-" + rand.Text() + "-" + chainID // two images may have one chain
	mounts, err := s.View(ctx, key, chainID, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}))
	if err != nil {
		return err
	}
	defer func() {
		gone := s.Remove(context.WithoutCancel(ctx), key)
		if removed = gone == nil || errdefs.IsNotFound(gone); !removed {
			err = errors.Join(err, gone)
		}
	}()
	return f(mounts)
}

// EndOthers removes the looks of other starts, which were cut short when containerd ended.
func (l *Looks) EndOthers(ctx context.Context, s snapshots.Snapshotter) error {
	var left []string
	err := s.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if strings.HasPrefix(info.Name, lookPrefix) && !strings.HasPrefix(info.Name, lookPrefix+l.id) {
			left = append(left, info.Name)
		}
		return nil
	})
	for _, key := range left {
		if gone := s.Remove(ctx, key); !errdefs.IsNotFound(gone) {
			err = errors.Join(err, gone)
		}
	}
	return err
}
