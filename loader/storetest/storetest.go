// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package storetest has containerd's own stores, on disk, for tests of what is done to them.
package storetest

import (
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	bolt "go.etcd.io/bbolt"
)

// New returns an empty database with the snapshotter "native", and the store of blobs below it.
func New(tb testing.TB, opts ...metadata.DBOpt) (*metadata.DB, content.Store) {
	tb.Helper()
	root := tb.TempDir()
	blobs, err := local.NewStore(root)
	if err != nil {
		tb.Fatal(err)
	}
	file, err := bolt.Open(filepath.Join(root, "meta.db"), 0o600, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = file.Close() })
	unpacked, err := native.NewSnapshotter(filepath.Join(root, "native"))
	if err != nil {
		tb.Fatal(err)
	}
	db := metadata.NewDB(file, blobs, map[string]snapshots.Snapshotter{"native": unpacked}, opts...)
	if err := db.Init(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return db, blobs
}
