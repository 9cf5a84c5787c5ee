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
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
)

// benchWrite writes a bundle, and compares that with reading and hashing the same layers over the same network, and with
// putting them into a file as well. Both floors run in this process and ask for no manifest, so that they are a little low: by
// the start of a command and three requests an image.
func benchWrite(tb testing.TB, t *table, rounds int) {
	c := newCluster(tb, 10<<20)
	config := filepath.Join(tb.TempDir(), "berth.toml")
	text := fmt.Sprintf("[[registries]]\ndomain = %q\ncertificates = [%q]\n[[rules]]\nfrom = \"*\"\nto = [\"source\"]\n", c.Host(), c.CA.File(tb))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "cluster.tar")
	var hashed, written samples
	for round := range rounds {
		for _, i := range abba(round) {
			if i == ours {
				took := seconds(func() {
					run(tb, nil, binaries.Path(tb, binaries.Berth), append([]string{"bundle", "--quiet", "--out", path, "--config", config}, c.refs()...)...)
				})
				hashed[i], written[i] = append(hashed[i], took), append(written[i], took)
			} else {
				hashed[i] = append(hashed[i], seconds(func() { c.hash(tb, nil) }))
				written[i] = append(written[i], seconds(func() { c.write(tb, path) }))
			}
			_ = os.Remove(path)
		}
	}
	t.row(fmt.Sprintf("bundle of %d images (stock: read and hashed)", copyImages), "s", hashed)
	t.row("  stock: read, hashed, written and synced", "s", written)
}

func seconds(f func()) float64 {
	start := time.Now()
	f()
	return time.Since(start).Seconds()
}

// write reads and hashes each blob, and puts it into a file.
func (c *cluster) write(tb testing.TB, path string) {
	to, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer to.Close()
	c.hash(tb, to)
	if err := to.Sync(); err != nil {
		tb.Fatal(err)
	}
}

// hash reads each blob once, a few at a time, and puts it into a file if there is one.
func (c *cluster) hash(tb testing.TB, to *os.File) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(read(tb, c.CA.File(tb))))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	seen := map[string]bool{}
	var at int64
	var reading sync.WaitGroup
	free := make(chan struct{}, 3)
	for path, size := range c.blobs {
		digest := path[strings.LastIndex(path, ":")+1:]
		if seen[digest] {
			continue
		}
		seen[digest] = true
		sum, w := sha256.New(), io.Discard
		if to != nil {
			w = io.NewOffsetWriter(to, at)
		}
		at += size
		free <- struct{}{}
		reading.Go(func() {
			defer func() { <-free }()
			resp, err := client.Get("https://" + c.Host() + path)
			if err != nil {
				tb.Error(err)
				return
			}
			defer resp.Body.Close()
			buffer := make([]byte, 256<<10)
			n, err := io.CopyBuffer(io.MultiWriter(sum, w), resp.Body, buffer)
			if got := hex.EncodeToString(sum.Sum(nil)); err != nil || n != size || got != digest {
				tb.Errorf("%s: got %d bytes of %s, %v", path, n, got, err)
			}
		})
	}
	reading.Wait()
}
