// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package daemon runs a containerd for a test: any containerd binary, on directories and sockets of its own, out of
// reach of one that the machine may run. When the test ends nothing is left: no process, mount, cgroup or file.
//
//	d := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock), Config: `version = 3 …`})
//	out := d.Ctr(t, "images", "pull", ref)
package daemon

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/berth-edge/berth/integration/binaries"
)

// Options say which containerd is run, and how.
type Options struct {
	Binary string // of containerd

	// Config is a drop-in, conf.d/50-test.toml, of whichever version it says; DropIns are more of them, by file name.
	// They add to a main file of this package's in the version Version, 3 by default.
	Config  string
	DropIns map[string]string
	Version int
	Main    string // in place of that main file; must set root, state and addresses itself

	Root  string // directory of what lasts; one of its own by default. It is not removed if given.
	Level string // of the log; "debug" by default
	Pause string // the sandbox image's reference
	CRI   bool   // CRI must be up, not only the image pull

	Env   []string          // added to the environment, NAME=VALUE
	Hosts map[string]string // name → address: an /etc/hosts that only the daemon sees

	// Setup runs on the thread that the daemon is started from, in a mount namespace that is the daemon's own: what
	// it mounts, and the network namespace that it enters, are the daemon's.
	Setup func() error
}

// Daemon is a containerd of a test.
type Daemon struct {
	Dir     string // short, since sockets are in it: config.toml, conf.d/, state/, …
	Root    string
	Address string // of the gRPC socket
	Log     *Log   // standard error of all its runs

	opts    Options
	metrics string
	proc    *process
	client  *containerd.Client
	old     []*containerd.Client
}

// RequireRoot skips the test, saying why, where it is not run by root; with CI set it fails it.
func RequireRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const why = "a containerd that runs containers needs root"
	if os.Getenv("CI") != "" {
		tb.Fatal(why)
	}
	tb.Skip(why)
}

// Start starts a daemon, waits until it serves and fails tb if a plugin that pulls need did not load.
func Start(tb testing.TB, opts Options) *Daemon {
	tb.Helper()
	d := New(tb, opts)
	if err := d.Run(tb); err != nil {
		tb.Fatalf("start %s: %v\n%s", filepath.Base(opts.Binary), err, d.Log.Tail(40))
	}
	return d
}

// New prepares a daemon without starting it, for tests in which the start itself is tried.
func New(tb testing.TB, opts Options) *Daemon {
	tb.Helper()
	RequireRoot(tb)
	if opts.Version == 0 {
		opts.Version = 3
	}
	if opts.Level == "" {
		opts.Level = "debug"
	}
	// Not tb.TempDir: its name grows with the test's, and a socket's path must stay under 108 bytes, a shim's under 42.
	dir, err := os.MkdirTemp("/tmp", "berth")
	if err != nil {
		tb.Fatal(err)
	}
	d := &Daemon{Dir: dir, Root: opts.Root, Address: filepath.Join(dir, "c.sock"), Log: newLog(tb), opts: opts}
	if d.Root == "" {
		d.Root = filepath.Join(dir, "root")
	}
	tb.Cleanup(func() { d.cleanup(tb) })
	if d.metrics, err = freeAddress(); err != nil {
		tb.Fatal(err)
	}
	// What containerd does not make itself.
	for _, sub := range []string{"temp", "verifiers", "cni/bin", "cni/net.d"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	return d
}

// freeAddress returns an address of loopback at which nobody listens. Its port lies below those that Linux gives to whoever asks
// for any, who would take it while the daemon is down between two starts.
func freeAddress() (string, error) {
	const first, ports, tries = 10_000, 20_000, 100
	var err error
	for range tries {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(ports))); err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

// Run starts the daemon and waits until it serves. Its error is that of a daemon that ended, of one that does not
// serve within 30 seconds, or of a plugin that did not load.
func (d *Daemon) Run(tb testing.TB) error {
	tb.Helper()
	if d.proc != nil {
		return fmt.Errorf("run: already running")
	}
	path := binaries.Dir(tb, binaries.Ctr, binaries.Shim, binaries.Runc)
	if err := d.writeConfig(); err != nil {
		return err
	}
	env := append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"))
	proc, err := startProcess(d.Log.file, append(env, d.opts.Env...), d.prepare(), d.opts.Binary,
		"--config", d.ConfigFile(), "--log-level", d.opts.Level)
	if err != nil {
		return err
	}
	d.proc = proc
	return d.wait(tb.Context(), 30*time.Second)
}

// Restart stops the daemon with SIGTERM and runs it again on the same directories. If change is not nil it may
// change the options meanwhile.
func (d *Daemon) Restart(tb testing.TB, change func(*Options)) {
	tb.Helper()
	d.Stop(tb)
	if change != nil {
		change(&d.opts)
	}
	if err := d.Run(tb); err != nil {
		tb.Fatalf("restart: %v\n%s", err, d.Log.Tail(40))
	}
}

// Stop ends the daemon with SIGTERM and waits for it. Its containers live on, as they do under systemd.
func (d *Daemon) Stop(tb testing.TB) {
	tb.Helper()
	if d.proc == nil {
		return
	}
	d.proc.signal(syscall.SIGTERM)
	select {
	case <-d.proc.done:
	case <-time.After(20 * time.Second):
		d.proc.signal(syscall.SIGKILL)
		<-d.proc.done
		tb.Errorf("stop containerd: still running 20s after SIGTERM")
	}
	d.proc = nil
	d.retire()
}

// Kill ends the daemon with SIGKILL and waits for it.
func (d *Daemon) Kill() {
	if d.proc == nil {
		return
	}
	d.proc.signal(syscall.SIGKILL)
	<-d.proc.done
	d.proc = nil
	d.retire()
}

// Signal sends a signal such as SIGSTOP.
func (d *Daemon) Signal(sig syscall.Signal) { d.proc.signal(sig) }

// Done is closed when the daemon of the last run has ended.
func (d *Daemon) Done() <-chan struct{} { return d.proc.done }

// PID returns the daemon's process id.
func (d *Daemon) PID() int { return d.proc.cmd.Process.Pid }

// retire forgets the client of a run that ended; it is closed at the end, since a test may still hold it.
func (d *Daemon) retire() {
	if d.client != nil {
		d.old = append(d.old, d.client)
		d.client = nil
	}
}
