// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// network is a network namespace with nothing but loopback. Whatever a process in it asks for, it asks this test.
type network struct {
	ns  *os.File
	run chan func()

	mu      sync.Mutex
	queries []string // names that were asked for
	dials   []string // addresses of listeners of all that were connected to
}

// newNetwork makes a namespace that lasts as long as the test.
func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{run: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with this goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = loopbackUp()
		}
		if err == nil {
			n.ns, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
		for f := range n.run {
			f()
		}
	}()
	err := <-made
	t.Cleanup(func() {
		close(n.run)
		n.ns.Close()
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	return n
}

// enter is for a daemon's Setup. resolvConf is mounted over /etc/resolv.conf.
func (n *network) enter(resolvConf string) func() error {
	return func() error {
		if err := unix.Mount(resolvConf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount /etc/resolv.conf: %w", err)
		}
		return unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET)
	}
}

// do runs f on the thread that is in the namespace: sockets that it makes belong there.
func (n *network) do(f func()) {
	done := make(chan struct{})
	n.run <- func() { f(); close(done) }
	<-done
}

// listen listens in the namespace, on an address that it is given if it is not of loopback.
func (n *network) listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	n.do(func() {
		host, _, _ := net.SplitHostPort(address)
		if ip := net.ParseIP(host).To4(); ip != nil && !ip.IsLoopback() {
			err = addAddress(ip)
		}
		if err == nil {
			l, err = net.Listen("tcp", address)
		}
	})
	if err != nil {
		t.Fatalf("listen on %s: %v", address, err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func loopbackUp() error {
	return setInterface("lo", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
}

func addAddress(ip net.IP) error {
	return setInterface(fmt.Sprintf("lo:%d", ip[3]), unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(ip) })
}

func setInterface(name string, request uint, set func(*unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := set(r); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, request, r)
}

// dns answers every query for an address with the one given, and notes the name.
func (n *network) dns(t *testing.T, server, answer string) {
	t.Helper()
	var conn net.PacketConn
	var err error
	n.do(func() { conn, err = net.ListenPacket("udp", server+":53") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			n.mu.Lock()
			n.queries = append(n.queries, q.Type.String()+" "+q.Name.String())
			n.mu.Unlock()
			m.Response, m.Additionals = true, nil
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
					Body:   &dnsmessage.AResource{A: [4]byte(net.ParseIP(answer).To4())},
				}}
			}
			if out, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
}

// watch accepts and notes connections to the address, and hangs up.
func (n *network) watch(t *testing.T, address string) {
	t.Helper()
	l := n.listen(t, address)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.mu.Lock()
			n.dials = append(n.dials, address)
			n.mu.Unlock()
			conn.Close()
		}
	}()
}

// asked returns what was asked for since the last call.
func (n *network) asked() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := strings.Join(append(n.queries, n.dials...), "\n")
	n.queries, n.dials = nil, nil
	return all
}
