// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/integration/binaries"
)

// cleanup ends the containers, the shims and the daemon, in that order, and removes what they leave. Each is found
// by the daemon's own directory, which no other process has anything to do with.
func (d *Daemon) cleanup(tb testing.TB) {
	d.removeContainers(tb)
	d.Kill()
	for _, c := range d.old {
		_ = c.Close()
	}
	d.killShims(tb)
	unmountBelow(d.Dir)
	d.removeCgroups()
	if err := os.RemoveAll(d.Dir); err != nil {
		tb.Errorf("clean up: %v", err)
	}
	if tb.Failed() && d.Log.String() != "" {
		tb.Logf("log of containerd, end of it:\n%s", d.Log.Tail(15))
	}
}

// removeContainers has runc kill and delete what it knows of: one directory a container, below one a namespace.
func (d *Daemon) removeContainers(tb testing.TB) {
	found, _ := filepath.Glob(filepath.Join(d.Dir, "runc", "*", "*"))
	for _, dir := range found {
		root, id := filepath.Split(dir)
		if out, err := exec.Command(binaries.Path(tb, binaries.Runc), "--root", root, "delete", "--force", id).CombinedOutput(); err != nil {
			tb.Errorf("delete container %s: %v: %s", id, err, out)
		}
	}
}

// killShims kills the shims of this daemon and waits until they are gone.
func (d *Daemon) killShims(tb testing.TB) {
	for range 200 {
		pids := d.shims()
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	tb.Errorf("clean up: shims %v do not end", d.shims())
}

// shims returns the processes, other than zombies, that were given the daemon's address as an argument.
func (d *Daemon) shims() []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // empty for a zombie
		if err != nil {
			continue
		}
		args := bytes.Split(cmdline, []byte{0})
		if slices.ContainsFunc(args[1:], func(arg []byte) bool { return string(arg) == d.Address }) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// cgroup is the name of the cgroup that this daemon's containers are below, so that two daemons can have containers
// of one id, and nothing is left in the cgroups "default" and "k8s.io", which may be another's.
func (d *Daemon) cgroup() string { return filepath.Base(d.Dir) }

// removeCgroups removes it from every hierarchy, of cgroup version 1 as of 2, with what is below.
func (d *Daemon) removeCgroups() {
	const top = "/sys/fs/cgroup"
	found, _ := filepath.Glob(filepath.Join(top, "*", d.cgroup()))
	for _, dir := range append(found, filepath.Join(top, d.cgroup())) {
		var all []string
		_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for _, path := range slices.Backward(all) {
			_ = unix.Rmdir(path)
		}
	}
}

// unmountBelow unmounts everything mounted at dir or below it, the last first.
func unmountBelow(dir string) {
	mounts, _ := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	for _, m := range slices.Backward(mounts) {
		_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}
