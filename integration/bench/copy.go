// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// crane is what our copy is compared with.
const crane = "github.com/google/go-containerregistry/cmd/crane@v0.22.1"

const (
	copyImages  = 40
	checkImages = 500
)

// cluster is a registry with the images of a cluster, which share layers.
type cluster struct {
	*registry.Registry
	names []string          // repository:tag
	blobs map[string]int64  // sizes by the path of each layer
	auth  map[string]string // of what they are copied to
}

// newCluster makes images with a layer of their own of the given size, over layers that they share.
func newCluster(tb testing.TB, own int) *cluster {
	c := &cluster{Registry: registry.Start(tb, registry.Options{}), blobs: map[string]int64{}, auth: map[string]string{"ann": "s3cret"}}
	var base []image.Layer
	for i := range 5 {
		base = append(base, image.NewLayer(image.Random("usr/lib/base", uint64(900+i), 4<<20)))
	}
	for i := range copyImages {
		layers := []image.Layer{base[i%5], base[(i+1)%5], image.NewLayer(image.Random("usr/bin/own", uint64(i+1), own))}
		img := image.New(image.Config{Layers: layers})
		name := fmt.Sprintf("team/app%d", i)
		img.Push(tb, c, name+":1")
		c.names = append(c.names, name+":1")
		for _, layer := range layers {
			c.blobs["/v2/"+name+"/blobs/"+layer.Digest.String()] = int64(len(layer.Blob))
		}
	}
	return c
}

// config is the configuration by which a registry is filled from the cluster's.
func (c *cluster) config(tb testing.TB, to *registry.Registry) string {
	text := fmt.Sprintf("[[registries]]\ndomain = %q\ncertificates = [%q]\nusername = \"ann\"\npassword = \"s3cret\"\n"+
		"[[registries]]\ndomain = %q\ncertificates = [%q]\n[[rules]]\nfrom = %[3]q\nto = [\"%[1]s/mirror\"]\n",
		to.Host(), to.CA.File(tb), c.Host(), c.CA.File(tb))
	path := filepath.Join(tb.TempDir(), "berth.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func (c *cluster) refs() []string {
	var refs []string
	for _, name := range c.names {
		refs = append(refs, c.Host()+"/"+name)
	}
	return refs
}

// benchCopy fills an empty registry, with our command and with a loop of crane's.
func benchCopy(tb testing.TB, t *table, rounds int) {
	c := newCluster(tb, 1<<20)
	dir := tb.TempDir()
	install := exec.Command("go", "install", crane)
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
	if out, err := install.CombinedOutput(); err != nil {
		tb.Fatalf("go install %s: %v\n%s", crane, err, out)
	}
	var wall samples
	var requests, connections [sides]int
	for round := range rounds {
		for _, i := range abba(round) {
			to := registry.Start(tb, registry.Options{Users: c.auth})
			config := c.config(tb, to)
			start := time.Now()
			if i == ours {
				run(tb, nil, binaries.Path(tb, binaries.Berth), append([]string{"copy", "--quiet", "--config", config}, c.refs()...)...)
			} else {
				c.loop(tb, dir, to)
			}
			wall[i] = append(wall[i], time.Since(start).Seconds())
			if got := len(to.Log.Match("PUT", "/v2/*/manifests/*")); got != copyImages {
				tb.Fatalf("%s: got %d manifests, want %d", sideNames[i], got, copyImages)
			}
			requests[i], connections[i] = len(to.Log.Requests()), to.Log.Counts().Conns
			to.Close()
		}
	}
	t.row(fmt.Sprintf("copy of %d images (stock: crane copy)", copyImages), "s", wall)
	t.note("requests at the registry that is filled: %d, crane %d; connections: %d, crane %d", requests[ours], requests[stock], connections[ours], connections[stock])
}

// loop copies one image after the other with crane.
func (c *cluster) loop(tb testing.TB, dir string, to *registry.Registry) {
	ca := filepath.Join(dir, "ca.pem")
	auth := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, to.Host(), base64.StdEncoding.EncodeToString([]byte("ann:s3cret")))
	for path, text := range map[string]string{ca: read(tb, c.CA.File(tb)) + read(tb, to.CA.File(tb)), filepath.Join(dir, "config.json"): auth} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	for _, name := range c.names {
		run(tb, []string{"SSL_CERT_FILE=" + ca, "DOCKER_CONFIG=" + dir}, filepath.Join(dir, "crane"), "copy", c.Host()+"/"+name, to.Host()+"/mirror/"+name)
	}
}

func read(tb testing.TB, path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func run(tb testing.TB, env []string, name string, args ...string) {
	cmd := exec.CommandContext(tb.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// benchCheck counts what a check of many references asks for.
func benchCheck(tb testing.TB, t *table, _ int) {
	c := newCluster(tb, 1<<10)
	tokens := &registry.Tokens{Users: map[string]registry.User{"ann": {Password: "s3cret", Scopes: []string{"repository:*:pull,push"}}}}
	to := registry.Start(tb, registry.Options{Tokens: tokens})
	img := image.Multi(11)
	var refs []string
	for i := range checkImages {
		img.Push(tb, to, fmt.Sprintf("mirror/many/app%d:1", i))
		refs = append(refs, fmt.Sprintf("%s/many/app%d:1", c.Host(), i))
	}
	config := c.config(tb, to)
	to.Log.Reset()
	start := time.Now()
	run(tb, nil, binaries.Path(tb, binaries.Berth), append([]string{"check", "--config", config}, refs...)...)
	took := time.Since(start)
	requests := len(to.Log.Requests())
	t.note("check of %d references: %.2f s, %.2f requests a reference, tokens included; %d connections", checkImages, took.Seconds(),
		float64(requests)/checkImages, to.Log.Counts().Conns)
}
