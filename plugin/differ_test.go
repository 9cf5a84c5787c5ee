// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/plugin"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/loader/unpacked"
)

// unpacker is a differ whose Apply is a function.
type unpacker struct {
	diff.Comparer
	apply func(context.Context, ocispec.Descriptor, []mount.Mount, ...diff.ApplyOpt) (ocispec.Descriptor, error)
}

func (u unpacker) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	return u.apply(ctx, desc, mounts, opts...)
}

var layerDesc = ocispec.Descriptor{Digest: digest.FromString("layer"), Size: 5}

// requireMounts skips a test of mounts, saying why, where it is not run by root; with CI set it fails it.
func requireMounts(t *testing.T) {
	t.Helper()
	why := "mounting a file system needs root"
	if os.Geteuid() == 0 {
		if _, err := exec.LookPath("mkfs.ext4"); err == nil {
			return
		}
		why = "making a file system needs mkfs.ext4"
	}
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// mountAt mounts m at a directory of its own until the test ends.
func mountAt(t *testing.T, m mount.Mount) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := m.Mount(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountAll(dir, 0); err != nil {
			t.Error(err)
			_ = mount.UnmountAll(dir, unix.MNT_DETACH) // or it would outlive the test
		}
	})
	return dir
}

// open returns which of paths this process has open.
func open(t *testing.T, paths ...string) (found []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if path, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && slices.Contains(paths, path) {
			found = append(found, path)
		}
	}
	return found
}

func TestSyncApplies(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, tt := range []struct {
		name     string
		instance any
		err      error
		want     string
	}{
		{name: "a differ", instance: unpacker{}},
		{name: "no differ", instance: "text", want: "decorate differ: string is not one"},
		{name: "one that did not start", err: broken, want: "broken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := syncApplies(nil, func(*plugin.InitContext) (any, error) { return tt.instance, tt.err })
			if tt.want != "" {
				if got != nil || err == nil || err.Error() != tt.want {
					t.Errorf("got %v, %v, want the error %q", got, err, tt.want)
				}
				return
			}
			if _, ok := got.(syncedDiffer); !ok || err != nil {
				t.Errorf("got %T, %v, want it decorated", got, err)
			}
		})
	}
}

// Apply hands on what it is given and what comes back, while the file system is open, and leaves nothing open. A layer that it
// unpacked, and no other, is marked: the start after a power cut need not compare it.
func TestApplyPassesThrough(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken layer")
	applied := ocispec.Descriptor{Digest: digest.FromString("applied"), Size: 7}
	for _, tt := range []struct {
		name string
		desc ocispec.Descriptor
		err  error
	}{
		{"applied", applied, nil},
		{"failed", ocispec.Descriptor{}, broken},
		{"failed with a descriptor", applied, broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "fs")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			mounts := []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}}
			d := syncedDiffer{unpacker{apply: func(ctx context.Context, desc ocispec.Descriptor, given []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
				if desc.Digest != layerDesc.Digest || len(given) != 1 || given[0].Source != dir || len(opts) != 1 || ctx != t.Context() {
					t.Errorf("got %v, %v and %d options, want what Apply was given", desc, given, len(opts))
				}
				if len(open(t, dir)) != 1 {
					t.Errorf("%s is not open while a layer is unpacked to it: a write error of that time would be lost", dir)
				}
				return tt.desc, tt.err
			}}}
			got, err := d.Apply(t.Context(), layerDesc, mounts, diff.WithSyncFs(true))
			if got.Digest != tt.desc.Digest || !errors.Is(err, tt.err) {
				t.Errorf("got %v, %v, want %v, %v", got, err, tt.desc, tt.err)
			}
			if marked := unpacked.Marked(dir); marked != (tt.err == nil) {
				t.Errorf("got the layer marked as synced: %t, with the error %v", marked, tt.err)
			}
			if left := open(t, dir, filepath.Dir(dir)); len(left) > 0 {
				t.Errorf("got %q left open", left)
			}
		})
	}
}

// Nothing is unpacked to a place that could not be synced.
func TestApplyToWhatCannotBeOpened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), "")
	d := syncedDiffer{unpacker{apply: func(context.Context, ocispec.Descriptor, []mount.Mount, ...diff.ApplyOpt) (ocispec.Descriptor, error) {
		t.Error("the layer was unpacked")
		return layerDesc, nil
	}}}
	got, err := d.Apply(t.Context(), layerDesc, []mount.Mount{{Source: dir}, {Source: filepath.Join(dir, "file", "below")}})
	if got.Digest != "" || !errors.Is(err, unix.ENOTDIR) || !strings.HasPrefix(err.Error(), "sync layer "+layerDesc.Digest.String()+": ") {
		t.Errorf("got %v, %v, want the layer's name and %v", got, err, unix.ENOTDIR)
	}
	if left := open(t, dir); len(left) > 0 {
		t.Errorf("got %q left open", left)
	}
}

// A full disk below a file system that has room: what was written never arrives, which only a sync says, and says once.
// Apply fails, whoever asked first.
func TestApplyTellsOfWriteErrors(t *testing.T) {
	t.Parallel()
	requireMounts(t)
	for _, tt := range []struct {
		name string
		then func(t *testing.T, dir string) // after the layer was written, before Apply of what is decorated returns
	}{
		{"at the end", func(*testing.T, string) {}},
		{"to the sync in the background", func(*testing.T, string) { time.Sleep(10 * writeBackEvery) }},
		{"to another", func(t *testing.T, dir string) {
			f, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.Syncfs(int(f.Fd())); err == nil {
				t.Log("the error was told before") // to the sync in the background
			}
		}},
	} {
		for _, kind := range []string{"bind", "overlay"} {
			t.Run(kind+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				disk := fullDisk(t)
				layer := mount.Mount{Type: "bind", Source: disk, Options: []string{"rbind", "rw"}}
				if kind == "overlay" {
					for _, name := range []string{"upper", "work"} {
						if err := os.Mkdir(filepath.Join(disk, name), 0o700); err != nil {
							t.Fatal(err)
						}
					}
					layer = mount.Mount{Type: "overlay", Source: "overlay", Options: []string{
						"lowerdir=" + t.TempDir(), "upperdir=" + disk + "/upper", "workdir=" + disk + "/work",
					}}
				}
				d := syncedDiffer{unpacker{apply: func(ctx context.Context, _ ocispec.Descriptor, mounts []mount.Mount, _ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
					return layerDesc, mount.WithTempMount(ctx, mounts, func(root string) error {
						content := make([]byte, 16<<20)
						_, _ = rand.Read(content)
						err := os.WriteFile(filepath.Join(root, "file"), content, 0o600)
						if err != nil && !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EIO) { // the sync in the background was faster
							t.Errorf("got %v, want a write that seems to work", err)
						}
						tt.then(t, disk)
						return nil
					})
				}}}
				got, err := d.Apply(t.Context(), layerDesc, []mount.Mount{layer})
				if err == nil || !strings.HasPrefix(err.Error(), "sync layer "+layerDesc.Digest.String()+": syncfs "+disk) {
					t.Errorf("got %v, %v, want an error of syncfs", got, err)
				}
				if got.Digest != "" {
					t.Errorf("got %v, want no descriptor", got)
				}
			})
		}
	}
}

// The same where the snapshot is mounted from a device, of which no path says what file system it is.
func TestApplyToDeviceTellsOfWriteErrors(t *testing.T) {
	t.Parallel()
	requireMounts(t)
	layer := mount.Mount{Type: "ext4", Source: attach(t, fullImage(t))}
	d := syncedDiffer{unpacker{apply: func(ctx context.Context, _ ocispec.Descriptor, mounts []mount.Mount, _ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
		return layerDesc, mount.WithTempMount(ctx, mounts, func(root string) error {
			content := make([]byte, 16<<20)
			_, _ = rand.Read(content)
			_ = os.WriteFile(filepath.Join(root, "file"), content, 0o600) // the sync in the background may be faster
			return nil
		})
	}}}
	got, err := d.Apply(t.Context(), layerDesc, []mount.Mount{layer})
	if err == nil || !strings.HasPrefix(err.Error(), "sync layer "+layerDesc.Digest.String()+": syncfs ") || got.Digest != "" {
		t.Errorf("got %v, %v, want an error of syncfs", got, err)
	}
	mounted, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Source != layer.Source, false })
	if err != nil || len(mounted) > 0 {
		t.Errorf("got mounts %v, %v left, want none", mounted, err)
	}
}

// A device that cannot be mounted is unpacked to by nobody, and one whose layer is broken is unmounted.
func TestApplyToBrokenDevice(t *testing.T) {
	t.Parallel()
	requireMounts(t)
	image := filepath.Join(t.TempDir(), "image")
	writeFile(t, image, strings.Repeat("x", 1<<20))
	d := syncedDiffer{unpacker{apply: func(context.Context, ocispec.Descriptor, []mount.Mount, ...diff.ApplyOpt) (ocispec.Descriptor, error) {
		t.Error("the layer was unpacked")
		return layerDesc, nil
	}}}
	got, err := d.Apply(t.Context(), layerDesc, []mount.Mount{{Type: "ext4", Source: attach(t, image)}})
	if err == nil || !strings.HasPrefix(err.Error(), "sync layer "+layerDesc.Digest.String()+": ") || got.Digest != "" {
		t.Errorf("got %v, %v, want that it cannot be mounted", got, err)
	}
}

// fullDisk mounts a file system of 64 MB whose image is on one of 8 MB.
func fullDisk(t *testing.T) (dir string) {
	t.Helper()
	return mountAt(t, mount.Mount{Type: "ext4", Source: fullImage(t), Options: []string{"loop"}})
}

func fullImage(t *testing.T) (file string) {
	t.Helper()
	image := filepath.Join(mountAt(t, mount.Mount{Type: "tmpfs", Source: "tmpfs", Options: []string{"size=8m"}}), "image")
	writeFile(t, image, "")
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	return image
}

// attach makes a device of an image until the test ends.
func attach(t *testing.T, image string) (device string) {
	t.Helper()
	device, err := mount.AttachLoopDevice(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.DetachLoopDevice(device); err != nil {
			t.Error(err)
		}
	})
	return device
}

// A snapshot that is mounted from a device, as one of btrfs is, whose file system is mounted elsewhere too: to unmount it syncs
// nothing, and no path of the mount lies on it.
func TestApplyToDevice(t *testing.T) {
	t.Parallel()
	requireMounts(t)
	image := filepath.Join(t.TempDir(), "image")
	writeFile(t, image, "")
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	layer := mount.Mount{Type: "ext4", Source: attach(t, image), Options: []string{"commit=1000"}}
	root := t.TempDir()
	if err := layer.Mount(root); err != nil {
		t.Fatal(err)
	}
	unmount := sync.OnceValue(func() error { return mount.UnmountAll(root, 0) })
	t.Cleanup(func() { _ = unmount() })
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content)
	d := syncedDiffer{unpacker{apply: func(ctx context.Context, _ ocispec.Descriptor, mounts []mount.Mount, _ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
		return layerDesc, mount.WithTempMount(ctx, mounts, func(root string) error {
			return os.WriteFile(filepath.Join(root, "file"), content, 0o600)
		})
	}}}
	if _, err := d.Apply(t.Context(), layerDesc, []mount.Mount{layer}); err != nil {
		t.Fatal(err)
	}
	cut(t, root)
	if err := unmount(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(mountAt(t, layer), "file"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("got %d bytes, %v after a power cut, want what was unpacked", len(got), err)
	}
}

// cut stops the ext4 file system at dir, and loses what was not synced.
func cut(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const shutdown, noLogFlush = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		t.Fatal(err)
	}
}

func TestWrittenPaths(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   []mount.Mount
		want []string
	}{
		{name: "nothing"},
		{"bind", []mount.Mount{{Type: "bind", Source: "/s/1/fs", Options: []string{"rbind", "rw"}}}, []string{"/s/1/fs", "/s/1"}},
		{"overlay", []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"workdir=/s/2/work", "upperdir=/s/2/fs", "lowerdir=/s/1/fs"}}}, []string{"/s/2/fs", "/s/2"}},
		{"overlay to be read", []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/s/2/fs:/s/1/fs"}}}, nil},
		{"erofs", []mount.Mount{{Type: "erofs", Source: "/s/3/layer.erofs", Options: []string{"ro"}}}, []string{"/s/3/layer.erofs", "/s/3"}},
		{"of memory", []mount.Mount{{Type: "tmpfs", Source: "tmpfs"}}, nil},
		{"several", []mount.Mount{{Source: "/s/1/fs"}, {Source: "overlay", Options: []string{"upperdir=/s/2/fs"}}}, []string{"/s/1/fs", "/s/1", "/s/2/fs", "/s/2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := writtenPaths(tt.in); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Each file system is opened once, by the first path of it that is there.
func TestOpenWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"fs", "upper"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	at := func(path string) mount.Mount { return mount.Mount{Source: path} }
	type test struct {
		name string
		in   []mount.Mount
		want []string
	}
	tests := []test{
		{name: "nothing"},
		{"a directory", []mount.Mount{at(dir + "/fs")}, []string{dir + "/fs"}},
		{"two of one file system", []mount.Mount{at(dir + "/fs"), at(dir + "/upper")}, []string{dir + "/fs"}},
		{"an image that is not made yet", []mount.Mount{at(dir + "/layer.erofs")}, []string{dir}},
		{"not there at all", []mount.Mount{at(dir + "/gone/fs")}, nil},
		{"an overlay", []mount.Mount{{Source: "overlay", Options: []string{"lowerdir=" + dir + "/fs", "upperdir=" + dir + "/upper"}}}, []string{dir + "/upper"}},
	}
	check := func(t *testing.T, tt test) {
		t.Helper()
		fs, err := openWritten(writtenPaths(tt.in))
		defer fs.close()
		var got []string
		for _, f := range fs {
			got = append(got, f.Name())
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("got %q, %v, want %q", got, err, tt.want)
		}
		if err := fs.sync(); err != nil {
			t.Errorf("got %v, want it synced", err)
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { check(t, tt) })
	}
	t.Run("two file systems", func(t *testing.T) {
		requireMounts(t)
		other := mountAt(t, mount.Mount{Type: "tmpfs", Source: "tmpfs"})
		bound := mountAt(t, mount.Mount{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		in := []mount.Mount{at(dir), at(other), at(bound)}
		check(t, test{in: in, want: []string{dir, other}})
		// Below a mount point there may be another file system.
		check(t, test{in: in[1:2], want: []string{other, filepath.Dir(other)}})
	})
}

// The sync in the background tells of its first error, and ends with stop, or with a layer that cannot be unpacked.
func TestWriteBackStops(t *testing.T) {
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	good := fileSystems{f}.writeBack()
	time.Sleep(3 * writeBackEvery)
	if err := good(); err != nil {
		t.Errorf("got %v, want it synced", err)
	}
	f.Close()
	stop := fileSystems{f}.writeBack()
	time.Sleep(5 * writeBackEvery)
	if err := stop(); !errors.Is(err, unix.EBADF) || strings.Count(err.Error(), "syncfs "+f.Name()) != 1 {
		t.Errorf("got %v, want one error of syncfs", err)
	}
	d := syncedDiffer{unpacker{apply: func(context.Context, ocispec.Descriptor, []mount.Mount, ...diff.ApplyOpt) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, errors.New("broken layer")
	}}}
	if _, err := d.Apply(t.Context(), layerDesc, []mount.Mount{{Source: t.TempDir()}}); err == nil {
		t.Error("got no error, want that of the layer")
	}
	running := func() bool {
		stacks := make([]byte, 1<<20)
		return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "fileSystems.writeBack")
	}
	for deadline := time.Now().Add(5 * time.Second); running() && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if running() {
		t.Error("the sync in the background goes on after stop")
	}
}
