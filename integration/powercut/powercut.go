// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package powercut makes a disk whose power can be cut: an ext4 file system in a file, mounted through a loop device.
//
// [Disk.Cut] stops the file system at one instant, with what is in memory lost: the running transaction of its
// journal, and every page of data that was not written. What was synced stays. The file system commits its journal
// only when somebody syncs, so that a test sees what a program synced itself and not what the kernel wrote in time.
//
//	disk := powercut.New(t, 256<<20)
//	… a program works in disk.Dir …
//	disk.Cut(t)
//	… the program is killed …
//	disk.Restore(t)
package powercut

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Disk is a file system that loses its power when asked to.
type Disk struct {
	Dir string // where it is mounted

	file string // that holds it
	base string // of both
}

// New makes a disk of the given size and mounts it; options are mkfs.ext4's. It goes with the test. Nothing but what is tried should write to
// it: every fsync, by whomever, also commits what others did to directories.
func New(tb testing.TB, size int64, options ...string) *Disk {
	tb.Helper()
	base, err := os.MkdirTemp("", "berth-disk")
	if err != nil {
		tb.Fatal(err)
	}
	d := &Disk{Dir: filepath.Join(base, "disk"), file: filepath.Join(base, "file"), base: base}
	tb.Cleanup(func() {
		if err := d.remove(); err != nil {
			tb.Errorf("remove disk: %v", err)
		}
	})
	if err := d.make(size, options); err != nil {
		tb.Fatalf("make disk: %v", err)
	}
	return d
}

func (d *Disk) make(size int64, options []string) error {
	if err := os.Mkdir(d.Dir, 0o755); err != nil {
		return err
	}
	f, err := os.Create(d.file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext4", append(options, "-q", "-F", "-E", "nodiscard", d.file)...).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4 (of e2fsprogs): %w: %s", err, out)
	}
	// A mount of a shared directory leaves other mount namespaces when it is unmounted here: else it would live on in
	// those that another test makes meanwhile.
	if err := unix.Mount(d.base, d.base, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", d.base, err)
	}
	if err := unix.Mount("", d.base, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share %s: %w", d.base, err)
	}
	return d.mount()
}

// mount mounts the disk. Its journal is not committed for a quarter of an hour unless somebody syncs.
func (d *Disk) mount() error {
	m := mount.Mount{Type: "ext4", Source: d.file, Options: []string{"loop", "commit=1000", "noinit_itable"}}
	return m.Mount(d.Dir)
}

// Cut cuts the power: from now on nothing reaches the disk, and every operation that would have to fails.
func (d *Disk) Cut(tb testing.TB) {
	tb.Helper()
	if err := d.shutdown(); err != nil {
		tb.Fatalf("cut power: %v", err)
	}
}

// shutdown is EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32), with EXT4_GOING_FLAGS_NOLOGFLUSH.
func (d *Disk) shutdown() error {
	const request, noLogFlush = 0x8004587d, uint32(2)
	dir, err := os.Open(d.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	flags := noLogFlush
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return &os.PathError{Op: "shutdown", Path: d.Dir, Err: errno}
	}
	return nil
}

// Restore mounts the disk again after a cut, as the next start of a machine does: its journal is replayed. Whatever
// was mounted from the disk is unmounted; processes that used it must have ended.
func (d *Disk) Restore(tb testing.TB) {
	tb.Helper()
	if err := d.unmount(); err != nil {
		tb.Fatalf("restore disk: %v", err)
	}
	if err := d.mount(); err != nil {
		tb.Fatalf("restore disk: %v", err)
	}
}

// unmount unmounts what was mounted from the disk, the last first, and the disk itself, and waits until its loop
// device is free: as long as it is not, somebody still holds the file system.
func (d *Disk) unmount() error {
	var device string // of the file system, "major:minor"
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		number := fmt.Sprintf("%d:%d", m.Major, m.Minor)
		if m.Mountpoint == d.Dir {
			device = number
		}
		return number != device && !strings.Contains(m.VFSOptions, d.Dir+"/"), false
	})
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.UMOUNT_NOFOLLOW); err != nil {
			return &os.PathError{Op: "unmount", Path: m.Mountpoint, Err: err}
		}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		loop := d.loop()
		if loop == "" {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is still in use 5s after it was unmounted", loop)
		}
	}
}

// loop returns the loop device of the disk, "" if there is none.
func (d *Disk) loop() string {
	found, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range found {
		if text, _ := os.ReadFile(path); strings.TrimSpace(string(text)) == d.file {
			return strings.Split(path, "/")[3]
		}
	}
	return ""
}

func (d *Disk) remove() error {
	err := d.unmount()
	if e := unix.Unmount(d.base, unix.UMOUNT_NOFOLLOW); e != nil && !errors.Is(e, unix.EINVAL) {
		err = errors.Join(err, &os.PathError{Op: "unmount", Path: d.base, Err: e})
	}
	if err != nil {
		return err // what is still mounted must not be removed
	}
	return os.RemoveAll(d.base)
}
