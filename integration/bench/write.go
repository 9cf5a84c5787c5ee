// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-edge/berth/integration/binaries"
)

// benchWrite writes a bundle, and compares that with a command that reads and hashes the same layers over the same network: over
// HTTP/1.1, which is the fastest way that we know, and as Go's client and those that are made of it do by themselves, which is
// HTTP/2; and with one that puts them into a file as well. None of these asks for a manifest.
func benchWrite(tb testing.TB, t *table, rounds int) {
	c := newCluster(tb, 10<<20)
	config := filepath.Join(tb.TempDir(), "berth.toml")
	text := fmt.Sprintf("[[registries]]\ndomain = %q\ncertificates = [%q]\n[[rules]]\nfrom = \"*\"\nto = [\"source\"]\n", c.Host(), c.CA.File(tb))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "cluster.tar")
	floors := []struct {
		what string
		path string
		env  []string
		wall samples
	}{
		{what: fmt.Sprintf("bundle of %d images (stock: read and hashed)", copyImages), env: []string{"GODEBUG=http2client=0"}},
		{what: "  stock: over HTTP/2"},
		{what: "  stock: read, hashed, written and synced", path: path, env: []string{"GODEBUG=http2client=0"}},
	}
	for round := range rounds {
		for _, i := range abba(round) {
			took := 0.0
			if i == ours {
				took = seconds(func() {
					run(tb, nil, binaries.Path(tb, binaries.Berth), append([]string{"bundle", "--quiet", "--out", path, "--config", config}, c.refs()...)...)
				})
				_ = os.Remove(path)
			}
			for n := range floors {
				f := &floors[n]
				if i != ours {
					took = seconds(func() { c.floor(tb, f.path, f.env) })
				}
				f.wall[i] = append(f.wall[i], took)
			}
			_ = os.Remove(path)
		}
	}
	for _, f := range floors {
		t.row(f.what, "s", f.wall)
	}
}

func seconds(f func()) float64 {
	start := time.Now()
	f()
	return time.Since(start).Seconds()
}

// floor runs this program again, to read and hash each layer once, and to put them into a file if path names one.
func (c *cluster) floor(tb testing.TB, path string, env []string) {
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	args := []string{readLayers, c.CA.File(tb), path}
	for _, layer := range slices.Sorted(maps.Keys(c.blobs)) {
		args = append(args, "https://"+c.Host()+layer)
	}
	run(tb, env, self, args...)
}

// readLayers is the first argument of a run of this program that is a floor.
const readLayers = "read-layers"

// readMain reads layers of a registry that shows a certificate of the authority at ca, each digest once and a few at a time, and
// puts them into a file unless path is "".
func readMain(ca, path string, layers []string) error {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	var to *os.File
	if path != "" {
		if to, err = os.Create(path); err != nil {
			return err
		}
		defer to.Close()
	}
	seen := map[string]bool{}
	var at atomic.Int64
	reading := new(errgroup.Group)
	reading.SetLimit(3)
	for _, layer := range layers {
		_, digest, _ := strings.Cut(layer, "sha256:")
		if seen[digest] {
			continue
		}
		seen[digest] = true
		reading.Go(func() error { return readLayer(client, layer, digest, to, &at) })
	}
	if err := reading.Wait(); err != nil || to == nil {
		return err
	}
	return to.Sync()
}

// readLayer compares a layer with its digest, and puts it into a file, if there is one, where at says.
func readLayer(client *http.Client, layer, digest string, to *os.File, at *atomic.Int64) error {
	resp, err := client.Get(layer)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sum, w := sha256.New(), io.Discard
	if to != nil {
		w = io.NewOffsetWriter(to, at.Add(resp.ContentLength)-resp.ContentLength)
	}
	n, err := io.CopyBuffer(io.MultiWriter(sum, w), resp.Body, make([]byte, 256<<10))
	if got := hex.EncodeToString(sum.Sum(nil)); err != nil || got != digest {
		return fmt.Errorf("%s: got %d bytes of %s, %w", layer, n, got, err)
	}
	return nil
}
