// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a running daemon.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; then err is how
	err  error
}

// startProcess starts a program from a thread of its own, after prepare has run there; prepare may be nil. The thread
// lives as long as the program and then ends, so that namespaces which prepare entered do not come back to Go's pool
// of threads, and the program is killed should this process die.
func startProcess(log *os.File, env []string, prepare func() error, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		if prepare != nil {
			if err := prepare(); err != nil {
				started <- err
				return
			}
		}
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, <-started
}

func (p *process) signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// prepare returns what must run on the daemon's thread: nil unless the options ask for something private.
func (d *Daemon) prepare() func() error {
	if d.opts.Hosts == nil && d.opts.Setup == nil {
		return nil
	}
	return func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare mounts: %w", err)
		}
		// Slave, not private: what the test unmounts must not live on in the daemon.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if d.opts.Hosts != nil {
			text := []byte("127.0.0.1 localhost\n::1 localhost\n")
			for _, name := range slices.Sorted(maps.Keys(d.opts.Hosts)) {
				text = fmt.Appendf(text, "%s %s\n", d.opts.Hosts[name], name)
			}
			path := filepath.Join(d.Dir, "hosts")
			if err := os.WriteFile(path, text, 0o644); err != nil {
				return err
			}
			if err := unix.Mount(path, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount /etc/hosts: %w", err)
			}
		}
		if d.opts.Setup != nil {
			return d.opts.Setup()
		}
		return nil
	}
}
