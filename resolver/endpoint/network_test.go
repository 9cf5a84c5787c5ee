// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// gate forwards connections to an address that can be changed.
type gate struct {
	host   string
	target atomic.Value

	mu   sync.Mutex
	open []*frozenConn
}

func (g *gate) to(host string) { g.target.Store(host) }

// freeze makes the connections that are open deliver nothing any more, as if a cable were cut.
func (g *gate) freeze() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range g.open {
		conn.frozen.Store(true)
	}
}

// lose has the kernel drop whatever else comes in over the connections that are open, as if a firewall had forgotten them.
func (g *gate) lose(t testing.TB) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range g.open {
		raw, err := conn.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		err = raw.Control(func(fd uintptr) {
			nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
			err := unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
			if err != nil {
				t.Error(err)
			}
		})
		if err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

type frozenConn struct {
	net.Conn
	frozen atomic.Bool
}

func (c *frozenConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.frozen.Load() {
			return n, err
		}
	}
}

func forward(t testing.TB, host string) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	g := &gate{host: listener.Addr().String()}
	g.to(host)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			client := &frozenConn{Conn: conn}
			g.mu.Lock()
			g.open = append(g.open, client)
			g.mu.Unlock()
			go splice(client, g.target.Load().(string))
		}
	}()
	return g
}

// splice copies both ways between conn and an address until one of them ends.
func splice(conn net.Conn, address string) {
	defer conn.Close()
	other, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer other.Close()
	var once sync.Once
	done := make(chan struct{})
	for _, pair := range [][2]net.Conn{{conn, other}, {other, conn}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			once.Do(func() { close(done) })
		}()
	}
	<-done
}

// blackhole is an address at which connections are neither accepted nor refused: its backlog is full.
func blackhole(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	host := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", host, 200*time.Millisecond)
		if err != nil {
			return host
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the backlog does not fill")
	return ""
}

// silent is an address at which connections are accepted, and nothing is said. It counts them.
func silent(t testing.TB) (host string, accepted func() int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var count atomic.Int64
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			count.Add(1)
		}
	}()
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String(), func() int { return int(count.Load()) }
}

// connectProxy is a proxy that tunnels, for who has its password. It knows names that nobody else does.
func connectProxy(user, password string, names map[string]string) http.Handler {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != want {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		splice(conn, cmp.Or(names[r.Host], r.Host))
	})
}

// R28: a registry's own proxy is used for it, its token server and where it redirects, and its password is not printed.
func TestProxy(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("proxy", 1<<10)
	authority := registrytest.NewAuthority(t)
	names := map[string]string{}
	proxy := registrytest.Serve(t, nil, connectProxy("proxy-user", "canary-proxy", names))
	tokens := registrytest.NewTokens(user, password)
	config := authority.Server(t)
	named, _, _ := authority.Issue(t, "realm.invalid", "127.0.0.1", "localhost")
	config.Certificates = []tls.Certificate{named}
	realm := registrytest.Serve(t, config, tokens)
	names["realm.invalid:443"] = realm.Host
	tokens.Realm = realm.URL + "/token"
	cdn := registrytest.Serve(t, authority.Server(t), registrytest.Registry{Image: image})
	elsewhere := strings.Replace(cdn.Host, "127.0.0.1", "localhost", 1) // not the registry's own host
	server := registrytest.Serve(t, authority.Server(t), tokens.Protect(registrytest.Redirect("/blobs/", "https://"+elsewhere, "", registrytest.Registry{Image: image})))

	opts := trusting(authority)
	opts.Proxy = (&url.URL{Scheme: "http", User: url.UserPassword("proxy-user", "canary-proxy"), Host: proxy.Host}).String()
	if err := pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image); err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{}
	for _, r := range proxy.Requests() {
		asked[strings.Fields(r.Text)[1]] = true
	}
	for _, host := range []string{server.Host, realm.Host, elsewhere} {
		if !asked[host] {
			t.Errorf("the proxy was not asked for %s", host)
		}
	}
	noSecrets(t, "the proxy", proxy)
	for what, s := range map[string]*registrytest.Server{"registry": server, "realm": realm, "other host": cdn} {
		if got := s.Received("canary-proxy", "Proxy-Authorization"); len(got) != 0 {
			t.Errorf("the %s received %q", what, got)
		}
	}

	t.Run("realm that only the proxy reaches", func(t *testing.T) {
		// What its name leads to is the proxy's to say.
		tokens.Realm = "https://realm.invalid/token"
		if err := pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image); err != nil {
			t.Error(err)
		}
	})
	t.Run("SEC-02 realm on localhost", func(t *testing.T) {
		before := len(realm.Requests()) // the proxy is this machine
		tokens.Realm = strings.Replace(realm.URL, "127.0.0.1", "localhost", 1) + "/token"
		err := pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image)
		wantError(t, err, "token realm", "refused for "+server.Host, "resolves to the local address")
		if got := len(realm.Requests()) - before; got != 0 {
			t.Errorf("got %d requests at the realm, want 0", got)
		}
	})
	t.Run("refuses", func(t *testing.T) {
		opts.Proxy = "http://proxy-user:canary-wrong@" + proxy.Host
		err := pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image)
		wantError(t, err, server.Host+": the proxy "+proxy.Host+" answers 407 Proxy Authentication Required; its user and password belong into its URL")
		if strings.Contains(err.Error(), "canary-wrong") {
			t.Errorf("the error quotes the password: %v", err)
		}
	})
	t.Run("does not reach the registry", func(t *testing.T) {
		// As the answer of the registry itself, it would send people to look there.
		gateway := registrytest.Serve(t, nil, status(http.StatusBadGateway))
		opts.Proxy = gateway.URL
		e := newEndpoint(t, server.Host, login(), opts)
		err := pull(t.Context(), e, "app", image)
		wantError(t, err, server.Host+": the proxy "+gateway.Host+" answers 502 Bad Gateway")
		if !endpoint.IsDown(err) {
			t.Errorf("got %v, want a registry that cannot be reached", err)
		}
	})
	t.Run("is down", func(t *testing.T) {
		opts.Proxy = "http://proxy-user:canary-proxy@" + closedPort(t)
		e := newEndpoint(t, server.Host, login(), opts)
		err := pull(t.Context(), e, "app", image)
		wantError(t, err, server.Host+": proxy", "connection refused")
		if strings.Contains(err.Error(), "canary-proxy") {
			t.Errorf("the error quotes the password: %v", err)
		}
	})
}

// SEC-26: insecure is for the registry, and not for a proxy that is spoken to over TLS and is sent a password of its own. Its
// certificate is of an authority that the one which is known has signed, as that of any server may be.
func TestProxyOfInsecureRegistry(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("insecure proxy", 1<<10)
	authority := registrytest.NewAuthority(t)
	intermediate := authority.Intermediate(t)
	config := intermediate.Server(t)
	block, _ := pem.Decode([]byte(intermediate.PEM))
	config.Certificates[0].Certificate = append(config.Certificates[0].Certificate, block.Bytes)
	config.NextProtos = []string{"http/1.1"}
	proxy := registrytest.Serve(t, config, connectProxy("proxy-user", "canary-proxy", nil))
	server := registrytest.Serve(t, registrytest.NewAuthority(t).Server(t), registrytest.Registry{Image: image})
	host := strings.Replace(proxy.Host, "127.0.0.1", "localhost", 1) // not the registry's own
	opts := endpoint.Options{Insecure: true, Proxy: "https://proxy-user:canary-proxy@" + host}
	wantError(t, pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image), "unknown authority")
	if got := len(proxy.Requests()); got != 0 {
		t.Errorf("got %d requests at a proxy that is not known, want none", got)
	}
	opts.Certificates = trusting(authority).Certificates
	if err := pull(t.Context(), newEndpoint(t, server.Host, login(), opts), "app", image); err != nil {
		t.Error(err)
	}
}

// The proxy of the environment is used where a registry has none of its own. It is never used for loopback, so this asks
// for a name, which only the proxy can resolve.
func TestProxyOfEnvironment(t *testing.T) {
	image := registrytest.NewImage("environment", 1<<10)
	authority := registrytest.NewAuthority(t)
	pair, _, _ := authority.Issue(t, "registry.invalid")
	config := authority.Server(t)
	config.Certificates = append(config.Certificates[:0], pair)
	server := registrytest.Serve(t, config, registrytest.Registry{Image: image})
	proxy := registrytest.Serve(t, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		splice(conn, server.Host)
	}))
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "direct.invalid,localhost") // read once: it holds for the tests that follow
	if err := pull(t.Context(), newEndpoint(t, "registry.invalid", login(), trusting(authority)), "app", image); err != nil {
		t.Fatal(err)
	}
	before := proxy.Connections()
	err := pull(t.Context(), newEndpoint(t, "direct.invalid", login(), trusting(authority)), "app", image)
	wantError(t, err, "direct.invalid: host not found")
	if got := proxy.Connections(); got != before {
		t.Errorf("the proxy was asked for a host of NO_PROXY")
	}
}
