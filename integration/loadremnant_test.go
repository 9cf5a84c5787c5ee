// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// TestForeignIngest loads where something else has half-written the same layer, with other bytes (DESIGN 5.8, 5.16): a load
// that was killed, under the loader's own lease, and a pull or an import, under one of its own.
func TestForeignIngest(t *testing.T) {
	daemon.RequireRoot(t)
	img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("a", 1, 3<<20)), image.NewLayer(image.Random("b", 2, 50_000))}})
	for name, write := range map[string]func(testing.TB, string){
		"plain": func(t testing.TB, folder string) {
			image.WriteFile(t, filepath.Join(folder, "a.tar"), image.Tar(image.OCI([]image.Named{img.Name("quay.io/a:1")})))
		},
		"compressed": func(t testing.TB, folder string) {
			image.WriteFile(t, filepath.Join(folder, "a.tgz"), image.Gzip(image.Tar(image.OCI([]image.Named{img.Name("quay.io/a:1")}))))
		},
	} {
		for _, lease := range []string{"io.berth.load", "other"} {
			t.Run(name+" "+lease, func(t *testing.T) {
				t.Parallel()
				l := newLoading(t, "", daemon.Options{Level: "info"})
				l.start(t)
				ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
				made, err := l.Client().LeasesService().Create(ctx, leases.WithID(lease))
				if err != nil {
					t.Fatal(err)
				}
				for _, layer := range img.Layers {
					desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: layer.Digest, Size: int64(len(layer.Blob))}
					w, err := content.OpenWriter(leases.WithLease(ctx, made.ID), l.Client().ContentStore(),
						content.WithRef("layer-"+layer.Digest.String()), content.WithDescriptor(desc))
					if err != nil {
						t.Fatal(err)
					}
					if _, err := w.Write(bytes.Repeat([]byte("wrong"), len(layer.Blob)/10)); err != nil {
						t.Fatal(err)
					}
				}
				l.Kill()
				write(t, l.folder)
				l.start(t)
				if out, good := l.status(t); !good || !strings.Contains(out, ": loaded") {
					t.Errorf("got status\n%s", out)
				}
				if lines := l.Log.Lines("level=error", "bundle"); len(lines) > 0 {
					t.Errorf("got errors %q", lines)
				}
				if err := img.Compare(l.Rootfs(t, "k8s.io", "quay.io/a:1")); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestBlobsAfterPowerCut makes blobs as ext4 leaves them when they were written and not synced: of length 0, since their data
// had no place yet when the journal was committed, or as long as what was synced, or, if that ended within a block, with zeros after that. They are found and written again.
func TestBlobsAfterPowerCut(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	p := newLoadPowered(t, binaries.Path(t, binaries.Containerd))
	p.start(t)
	p.waitLoaded(t)
	var blobs []content.Info
	ctx := namespaces.WithNamespace(t.Context(), string(laneCRI))
	if err := p.daemon.Client().ContentStore().Walk(ctx, func(info content.Info) error {
		blobs = append(blobs, info)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	p.daemon.Stop(t)
	var short []string
	sizes := map[string]int64{}
	for i, blob := range blobs {
		if i%4 == 3 {
			continue // whole
		}
		file := p.blobFile(blob)
		unsynced(t, file, i%2 == 0)
		short = append(short, file)
		sizes[file] = blob.Size
	}
	syncJournal(t, p.disk.Dir)
	p.disk.Cut(t)
	p.disk.Restore(t)
	var zeros, truncated, same int
	for _, file := range short {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		switch info.Size() {
		case 0:
			zeros++
		case sizes[file]:
			same++
		default:
			truncated++
		}
	}
	t.Logf("%d blobs: %d of length 0, %d truncated, %d with zeros at their end", len(blobs), zeros, truncated, same)
	if zeros == 0 || truncated == 0 || same == 0 {
		t.Fatal("want some of each")
	}
	p.start(t)
	p.waitLoaded(t)
	p.wantWhole(t)
	if got := len(p.daemon.Log.Lines("blob is damaged")); got != len(short) {
		t.Errorf("got %d lines of damaged blobs, want %d", got, len(short))
	}
}

// TestSpoiledElsewhere has the blobs of an image damaged in the content store, where the loader's namespace does not know them: they
// are another namespace's, or a power cut came before they were recorded. The first load writes them again.
func TestSpoiledElsewhere(t *testing.T) {
	daemon.RequireRoot(t)
	for _, recorded := range []bool{true, false} {
		for i, pack := range []func([]byte) []byte{func(d []byte) []byte { return d }, image.Gzip} {
			l := newLoading(t, "", daemon.Options{CRI: true})
			l.start(t)
			img := threeLayers(image.NewLayer(image.Random("shared", 350, 30000)), 351, "quay.io/spoiled:1")
			archive := image.Tar(image.OCI([]image.Named{img}))
			l.Ctr(t, "-n", "default", "images", "import", image.WriteFile(t, filepath.Join(t.TempDir(), "a.tar"), archive))
			l.Stop(t)
			if !recorded {
				if err := os.Remove(l.metadata()); err != nil {
					t.Fatal(err)
				}
			}
			blobs := img.Blobs()
			for n, d := range slices.Sorted(maps.Keys(blobs)) {
				data := blobs[d]
				if n%2 == 0 {
					data = nil // what is there is of length 0, or zeros
				}
				if err := os.WriteFile(l.blob(d), make([]byte, len(data)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			l.put(t, "a.tar", pack(archive))
			l.start(t)
			if out, good := l.status(t); !good {
				t.Errorf("recorded %t, packing %d: got status\n%s", recorded, i, out)
			}
			l.wantLoaded(t, img)
			for d, data := range blobs {
				if got, err := os.ReadFile(l.blob(d)); err != nil || !bytes.Equal(got, data) {
					t.Errorf("recorded %t, packing %d: got another blob %s: %v", recorded, i, d, err)
				}
			}
		}
	}
}

// unsynced writes a file anew as a program does that does not sync, or syncs only the first half.
func unsynced(t *testing.T, path string, halfSynced bool) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o444)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	half := 0
	if halfSynced {
		half = len(data) / 2
		if half > 4096 {
			half -= half % 4096 // or the block that it ends in keeps its place, and the file its length
		}
		if _, err := f.Write(data[:half]); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Write(data[half:]); err != nil {
		t.Fatal(err)
	}
}

// syncJournal syncs a file of a directory, and with it the journal of the file system, but no data of others.
func syncJournal(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "synced"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, "x"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
