// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Fault answers a request in place of the registry, which is next.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// On returns a middleware that puts the fault to the requests of the given method and path, patterns as in
// [Log.Match]. The first n of them meet it; n < 0 means all.
func On(method, pattern string, n int, fault Fault) func(http.Handler) http.Handler {
	var met atomic.Int64
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			matches := (method == "" || r.Method == method) && (pattern == "" || glob(pattern, r.URL.Path))
			if matches && (n < 0 || met.Add(1) <= int64(n)) {
				fault(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Chain returns a middleware that is all of these, the first outermost.
func Chain(all ...func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		for i := len(all) - 1; i >= 0; i-- {
			h = all[i](h)
		}
		return h
	}
}

// Fail answers with the status, and headers given as pairs such as "Retry-After", "2".
func Fail(status int, headers ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Add(headers[i], headers[i+1])
		}
		refuse(w, status, "injected fault")
	}
}

// Redirect answers 307 to the same path and query of another base URL.
func Redirect(base string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, strings.TrimSuffix(base, "/")+r.URL.RequestURI(), http.StatusTemporaryRedirect)
	}
}

// Truncate lets n bytes of the body through and then drops the connection.
func Truncate(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&truncated{ResponseWriter: w, left: n}, r)
		panic(http.ErrAbortHandler)
	}
}

type truncated struct {
	http.ResponseWriter
	left int
}

func (t *truncated) Write(p []byte) (int, error) {
	if len(p) <= t.left {
		t.left -= len(p)
		return t.ResponseWriter.Write(p)
	}
	_, _ = t.ResponseWriter.Write(p[:t.left])
	_ = http.NewResponseController(t.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// Body answers with other bytes under the headers that the registry would have sent, their digest included.
func Body(data []byte) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&replaced{ResponseWriter: w, size: len(data)}, r)
		if r.Method != http.MethodHead {
			_, _ = w.Write(data)
		}
	}
}

type replaced struct {
	http.ResponseWriter
	size int
}

func (w *replaced) WriteHeader(status int) {
	w.Header().Set("Content-Length", strconv.Itoa(w.size))
	w.ResponseWriter.WriteHeader(status)
}

func (w *replaced) Write(p []byte) (int, error) { return len(p), nil }

// Hang answers nothing until the client goes away.
func Hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }

// Refusing returns an address of loopback at which nothing listens.
func Refusing(tb testing.TB) string {
	tb.Helper()
	l := listenTB(tb)
	_ = l.Close()
	return l.Addr().String()
}

// Silent returns an address of loopback where connections are accepted and nothing is ever said.
func Silent(tb testing.TB) string {
	tb.Helper()
	l := listenTB(tb)
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tb.Cleanup(func() { _ = conn.Close() })
		}
	}()
	return l.Addr().String()
}

// BlackHole returns an address of loopback where connections are neither accepted nor refused, as where a firewall drops what comes:
// the queue of those that wait to be accepted is full.
func BlackHole(tb testing.TB) string {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		tb.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		tb.Cleanup(func() { _ = conn.Close() })
	}
	tb.Fatalf("the queue of %s does not fill", address)
	return ""
}

func listenTB(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}
