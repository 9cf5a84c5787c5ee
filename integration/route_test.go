// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestIPv6 pulls from a registry at an IPv6 address, as a target and by its own name (R29, B21).
func TestIPv6(t *testing.T) {
	daemon.RequireRoot(t)
	probe, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 on loopback: %v", err)
	}
	probe.Close()
	r := registry.Start(t, registry.Options{Addr: "[::1]:0", Users: ann})
	img := image.Small("linux/amd64", 250)
	img.Push(t, r, "p/quay.io/a:1")
	n := startNode(t, entry(t, r, "p", login("ann", "s3cret")), daemon.Options{CRI: true})
	for _, ref := range []string{"quay.io/a:1", r.Host() + "/p/quay.io/a:1"} {
		if err := pullCRI(t, n.Daemon, ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		} else if err := img.Compare(n.Rootfs(t, "k8s.io", ref)); err != nil {
			t.Error(err)
		}
	}
	for _, req := range r.Log.Requests() {
		if req.Host != r.Host() {
			t.Errorf("got Host %q, want %q", req.Host, r.Host())
		}
	}
}

// TestRetryAfter waits three times as long as the registry says and then has the image (R11).
func TestRetryAfter(t *testing.T) {
	daemon.RequireRoot(t)
	t.Parallel()
	const failures, wait = 3, 2 * time.Second
	img := image.Small("linux/amd64", 252)
	layer := "*/blobs/" + img.Layers[0].Digest.String()
	r := registry.Start(t, registry.Options{Middleware: registry.On("GET", layer, failures, registry.Fail(http.StatusTooManyRequests, "Retry-After", "2"))})
	img.Push(t, r, "p/quay.io/a:1")
	n := startNode(t, entry(t, r, "p"), daemon.Options{})
	if err := pullCtr(t, n.Daemon, "quay.io/a:1"); err != nil {
		t.Fatal(err)
	}
	requests := r.Log.Match("GET", layer)
	if len(requests) != failures+1 {
		t.Errorf("got requests of the layer %v, want one after each of %d failures", requests, failures)
	}
	for i := 1; i < len(requests); i++ {
		if waited := requests[i].Time.Sub(requests[i-1].Time); waited < wait {
			t.Errorf("got request %d of the layer %s after the one before, want the %s waited that the registry asked for", i, waited, wait)
		}
	}
	if err := img.Compare(n.Rootfs(t, "default", "quay.io/a:1")); err != nil {
		t.Error(err)
	}
}

// proxy is an HTTP proxy that notes where it was asked to connect, and connects to to.
type proxy struct {
	address string
	mu      sync.Mutex
	asked   []string
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String()}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
		p.mu.Unlock()
		upstream, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer upstream.Close()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(upstream, conn); upstream.Close() }()
		_, _ = io.Copy(conn, upstream)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return p
}

func (p *proxy) connects() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// TestProxies reaches registries through proxies: the environment's, none where NO_PROXY says so, and one's own, whose
// password is shown nowhere (R28).
func TestProxies(t *testing.T) {
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: ann, Names: []string{"far.test", "near.test", "own.test"}})
	_, port, _ := strings.Cut(r.Host(), ":")
	environment, own := startProxy(t, r.Host()), startProxy(t, r.Host())
	config := ""
	for i, name := range []string{"far", "near", "own"} {
		image.Small("linux/amd64", uint64(254+2*i)).Push(t, r, name+"/a:1")
		line := ""
		if name == "own" {
			line = fmt.Sprintf("proxy = \"http://user:pr0xy-pass@%s\"", own.address)
		}
		config += strings.Replace(entry(t, r, name, login("ann", "s3cret"), line), r.Host(), name+".test:"+port, 1) + rule(name+".io", name+".test:"+port+"/"+name)
	}
	n := startNode(t, config, daemon.Options{Level: "trace", Env: []string{"HTTPS_PROXY=http://" + environment.address, "NO_PROXY=near.test"},
		Hosts: map[string]string{"near.test": "127.0.0.1", "far.test": "127.9.9.9", "own.test": "127.9.9.9"}})
	for _, name := range []string{"far", "near", "own"} {
		if err := pullCtr(t, n.Daemon, name+".io/a:1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, want := slices.Compact(environment.connects()), []string{"CONNECT far.test:" + port + " "}; !slices.Equal(got, want) {
		t.Errorf("got %q asked of the environment's proxy, want %q", got, want)
	}
	if got, want := slices.Compact(own.connects()), []string{"CONNECT own.test:" + port + " Basic dXNlcjpwcjB4eS1wYXNz"}; !slices.Equal(got, want) {
		t.Errorf("got %q asked of the registry's own proxy, want %q", got, want)
	}
	if log := n.Log.String(); strings.Contains(log, "pr0xy-pass") || strings.Contains(log, "dXNlcjpwcjB4eS1wYXNz") {
		t.Error("got the proxy's password in the log")
	}
}
