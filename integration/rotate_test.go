// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// rotating is a registry that asks for a client's certificate, and whose own is changed while it runs.
type rotating struct {
	*registry.Registry
	pairs  [2]tls.Certificate // of the server, by authority
	serves atomic.Int32

	mu    sync.Mutex
	seen  map[string]int // clients' certificates by name
	shown [2]int         // handshakes by the server's authority
}

func startRotating(t *testing.T, authorities [2]*registry.CA, clients *registry.CA, opts registry.Options) *rotating {
	t.Helper()
	r := &rotating{seen: map[string]int{}}
	for i, ca := range authorities {
		cert, key, err := ca.Server()
		if err == nil {
			r.pairs[i], err = tls.X509KeyPair(cert, key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	opts.TLS = func(c *tls.Config) {
		c.Certificates = nil
		c.SessionTicketsDisabled = true // with which no certificate would be shown again
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, clients.Pool()
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			i := r.serves.Load()
			r.shown[i]++
			return &r.pairs[i], nil
		}
		c.VerifyPeerCertificate = func(_ [][]byte, chains [][]*x509.Certificate) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.seen[chains[0][0].Subject.CommonName]++
			return nil
		}
	}
	r.Registry = registry.Start(t, opts)
	return r
}

// TestRotation changes a file twenty times a second while images are pulled: the authority that a registry's certificate is of, from
// the old to both to the new (T7), and the pair that is shown to it, of which the certificate is there before the key (T8). The
// registry changes its own certificate when both authorities are known. No pull fails, and one that was begun before all this ends well after it.
func TestRotation(t *testing.T) {
	daemon.RequireRoot(t)
	const rounds, changes, repositories, workers = 4, 12, 20, 4
	var authorities [2]*registry.CA
	for i := range authorities {
		var err error
		if authorities[i], err = registry.NewCA(fmt.Sprintf("authority %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	clientCA, err := registry.NewCA("clients' authority")
	if err != nil {
		t.Fatal(err)
	}
	closing := registry.On("", "*/manifests/*", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("Connection", "close") // so that there is a handshake for each pull
		next.ServeHTTP(w, r)
	})
	reached, release := make(chan struct{}), make(chan struct{})
	long := layered(1400)
	r := startRotating(t, authorities, clientCA, registry.Options{
		Middleware: registry.Chain(closing, registry.On("GET", "*/blobs/"+long.Layers[2].Digest.String(), 1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			close(reached)
			<-release
			next.ServeHTTP(w, r)
		})),
	})
	long.Push(t, r.Registry, "p/quay.io/long:1")
	for i := range repositories {
		image.Small("linux/amd64", 1410).Push(t, r.Registry, fmt.Sprintf("p/quay.io/a%d:1", i))
	}

	dir := t.TempDir()
	replace := func(name string, text []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		write(t, path+".new", string(text))
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	pair := func(name string) {
		t.Helper()
		cert, key, err := clientCA.Client(name)
		if err != nil {
			t.Fatal(err)
		}
		replace("client.pem", cert)
		replace("client.key", key)
	}
	of := [2][]byte{authorities[0].PEM(), authorities[1].PEM()}
	both := append(append([]byte{}, of[0]...), of[1]...)
	replace("ca.pem", of[0])
	pair("node 0")
	n := startNode(t, fmt.Sprintf("[[registries]]\ndomain = %q\ncertificates = [%q]\nclient_certificate = %q\nclient_key = %q\n",
		r.Host()+"/p", dir+"/ca.pem", dir+"/client.pem", dir+"/client.key"), daemon.Options{Level: "info"})
	ctx := namespaces.WithNamespace(t.Context(), "go")
	longPull := make(chan error, 1)
	go func() { longPull <- transferIn(ctx, n.Daemon, "quay.io/long:1") }()
	<-reached

	var pulling sync.WaitGroup
	var pulls atomic.Int64
	var begun [workers]atomic.Int64
	done := make(chan struct{})
	for w := range workers {
		pulling.Go(func() {
			for i := w; ; i += workers {
				select {
				case <-done:
					return
				default:
				}
				begun[w].Add(1)
				if err := transferIn(ctx, n.Daemon, fmt.Sprintf("quay.io/a%d:1", i%repositories)); err != nil {
					t.Errorf("pull %d: %v", i, err)
				}
				pulls.Add(1)
			}
		})
	}
	// settled waits until no pull is under way that began before: each has the files as they are now.
	settled := func() {
		t.Helper()
		for w := range begun {
			before := begun[w].Load()
			within(t, 20*time.Second, "next pull", func() bool { return begun[w].Load() > before })
		}
	}
	for round := range rounds {
		now, next := round%2, (round+1)%2
		for i := range changes {
			replace("ca.pem", [][]byte{both, of[now]}[i%2])
		}
		replace("ca.pem", both)
		settled()
		r.serves.Store(int32(next))
		settled()
		for i := range changes / 2 {
			pair(fmt.Sprintf("node %d", 1+round*changes+i))
			settled() // so that it is shown
		}
		replace("ca.pem", of[next])
	}
	settled() // or the last pair would not have been shown
	close(done)
	pulling.Wait()
	close(release)
	if err := <-longPull; err != nil {
		t.Errorf("the pull that began before the first change: %v", err)
	}
	if err := long.Compare(n.Rootfs(t, "go", "quay.io/long:1")); err != nil {
		t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("%d pulls, %d clients' certificates, %v handshakes by authority", pulls.Load(), len(r.seen), r.shown)
	if last := fmt.Sprintf("node %d", (rounds-1)*changes+changes/2); r.seen[last] == 0 || len(r.seen) < rounds*2 {
		t.Errorf("got clients' certificates %v, want more of them, and the last of all, %s", r.seen, last)
	}
	if r.shown[0] < rounds*changes || r.shown[1] < rounds*changes {
		t.Errorf("got handshakes %v by the authority of the registry's certificate, want more of both", r.shown)
	}
	for _, line := range n.Log.Lines("refused: what was before stays in force") {
		if !strings.Contains(line, "client key does not match certificate") {
			t.Errorf("got %s, want only pairs refused of which a half is new", line)
		}
	}
}
