// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/registrytest"
)

// The watcher brings a change into force without a pull, also where what is watched changes with it.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	r, ctx, _ := newResolver(t, dir+"/conf/*.toml")
	ctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { r.Watch(ctx); close(watched) }()
	waitFor := func(what string, is func() bool) {
		t.Helper()
		for begin := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
			if time.Since(begin) > 2*lookEvery {
				t.Fatalf("%s never came into force: %v", what, r.status(t.Context()))
			}
		}
	}
	if err := os.Mkdir(dir+"/conf", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/conf/a.toml", "[[registries]]\ndomain = \"r.io\"\ncertificates = [\""+dir+"/pki/ca.pem\"]\n")
	waitFor("a mistake", func() bool { return len(r.status(t.Context()).Problems) == 1 })
	if err := os.Mkdir(dir+"/pki", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/pki/ca.pem", registrytest.NewAuthority(t).PEM)
	waitFor("its mend, elsewhere", func() bool { return r.status(t.Context()).Generation == 3 && r.State().Err == nil })
	stop()
	<-watched
}

// SEC-25, T9: what a link among the system's certificates leads to is looked at by the watcher, since no event tells of it.
func TestWatchRoots(t *testing.T) {
	certs, file := t.TempDir(), filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, file, registrytest.NewAuthority(t).PEM)
	if err := os.Symlink(file, filepath.Join(certs, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_DIR", certs)
	t.Setenv("SSL_CERT_FILE", filepath.Join(certs, "none"))
	dir := t.TempDir()
	writeFile(t, dir+"/a.toml", "[[registries]]\ndomain = \"r.io\"\n")
	r, ctx, _ := newResolver(t, dir+"/*.toml")
	ctx, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { r.Watch(ctx) })
	defer watcher.Wait()
	defer stop()
	before := r.State().Loaded.Roots
	before.Pool()
	writeFile(t, file, registrytest.NewAuthority(t).PEM+"# another\n")
	for begin := time.Now(); r.State().Loaded.Roots == before; time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > 3*lookEvery {
			t.Fatal("the change never came into force")
		}
	}
}
