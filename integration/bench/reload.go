// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

const (
	reloadRules = 10_000
	reloadPulls = 100
)

// benchReload pulls while a file of very many rules is replaced every tenth of a second, and while it is not. There is no
// stock side: it has nothing of the kind.
func benchReload(tb testing.TB, t *table, rounds int) {
	r := registry.Start(tb, registry.Options{})
	image.Small("linux/amd64", 8).Push(tb, r, "p/"+upstream+"/a:1")
	etc := tb.TempDir()
	file := filepath.Join(etc, "rules.toml")
	var text strings.Builder
	fmt.Fprintf(&text, "[[registries]]\ndomain = %q\ncertificates = [%q]\n", r.Host()+"/p", r.CA.File(tb))
	for i := range reloadRules {
		fmt.Fprintf(&text, "[[rules]]\nfrom = \"h%d.example.com/team/app\"\nto = [\"registry.example.net/all\"]\n", i)
	}
	put := func(n int) {
		content := fmt.Sprintf("%s[[rules]]\nfrom = \"h.example.com\"\nto = [\"registry.example.net/r%d\"]\n", text.String(), n)
		if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
			tb.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			tb.Fatal(err)
		}
	}
	put(0)
	d := daemon.Start(tb, daemon.Options{Binary: copied(tb, binaries.Path(tb, binaries.Containerd)), CRI: true, Level: "warn",
		Config: fmt.Sprintf("version = 3\n[plugins.\"io.containerd.resolver.v1.external-registry\"]\nconfig_path = [%q]\n", etc+"/*.toml")})
	s := &side{Daemon: d}
	s.images, _ = d.CRI(tb)
	pulls := func() []float64 {
		var took []float64
		for range reloadPulls {
			start := time.Now()
			if err := s.pull(tb, upstream+"/a:1"); err != nil {
				tb.Fatal(err)
			}
			took = append(took, time.Since(start).Seconds()*1000)
		}
		return took
	}
	pulls()
	var wall samples
	for range rounds {
		wall[stock] = append(wall[stock], median(pulls()))
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for n := 1; ; n++ {
				select {
				case <-done:
					return
				case <-time.After(100 * time.Millisecond):
					put(n)
				}
			}
		}()
		wall[ours] = append(wall[ours], median(pulls()))
		close(done)
		<-ended
		wall[control] = append(wall[control], median(pulls()))
	}
	t.row(fmt.Sprintf("pull, %d rules replaced (stock: not replaced)", reloadRules), "ms", wall)
	applied := regexp.MustCompile(`(?m)^berth_config_reloads_total\{outcome="applied"\} (\S+)`).FindStringSubmatch(d.Metrics(tb))
	if len(applied) < 2 || applied[1] == "0" {
		tb.Fatalf("got reloads %q, want many", applied)
	}
	t.note("changes that came into force meanwhile: %s", applied[1])
	d.Stop(tb)
}
