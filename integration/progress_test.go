// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// inPieces answers in pieces, for about a second.
func inPieces(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(pieces{w}, r)
}

type pieces struct{ http.ResponseWriter }

func (p pieces) Write(text []byte) (n int, err error) {
	time.Sleep(20 * time.Millisecond)
	return p.ResponseWriter.Write(text)
}

// TestProgress looks at what copy and bundle draw on a terminal: how far each image is, and all of them, with speed and time left.
// Without one, or where the environment asks for a plain one, nothing is drawn.
func TestProgress(t *testing.T) {
	public := registry.Start(t, registry.Options{Middleware: registry.On("GET", "/v2/*/blobs/*", -1, inPieces)})
	img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("file", 91, 2_000_000))}})
	ref := public.Host() + "/team/app:1"
	img.Push(t, public, "team/app:1")
	for _, command := range []string{"copy", "bundle"} {
		for _, environment := range []string{"TERM=xterm", "NO_COLOR=1", "TERM=dumb"} {
			own := registry.Start(t, registry.Options{})
			dir := t.TempDir()
			args := []string{"copy", "--config", dir + "/copy.toml", ref}
			write(t, dir+"/copy.toml", entry(t, own, "")+entry(t, public, "")+rule(public.Host(), own.Host()+"/mirror"))
			if command == "bundle" {
				args = []string{"bundle", "--out", dir + "/app.tar", "--config", dir + "/bundle.toml", ref}
				write(t, dir+"/bundle.toml", entry(t, public, ""))
			}
			cmd := exec.CommandContext(t.Context(), binaries.Path(t, binaries.Berth), args...)
			cmd.Env = append(os.Environ(), "NO_COLOR=", environment)
			drawn := onTerminal(t, cmd)
			for _, want := range []string{`in all [0-9.]+ `, regexp.QuoteMeta(ref) + ` [0-9.]+ `, `iB/s`} {
				if got := regexp.MustCompile(want).MatchString(drawn); got != (environment == "TERM=xterm") {
					t.Errorf("%s with %s: got %q drawn: %t\n%q", command, environment, want, got, drawn)
				}
			}
			if !strings.Contains(drawn, "1 image") {
				t.Errorf("%s with %s: got no summary:\n%q", command, environment, drawn)
			}
		}
	}
}

// onTerminal runs a command on a terminal, and returns what it printed there.
func onTerminal(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	terminal, name, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if err := terminal.Resize(console.WinSize{Width: 200, Height: 24}); err != nil {
		t.Fatal(err)
	}
	end, err := os.OpenFile(filepath.Clean(name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = end, end
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end.Close()
	drawn, _ := io.ReadAll(terminal) // ends with EIO when nobody has the terminal open
	if err := cmd.Wait(); err != nil {
		t.Errorf("%q: %v\n%s", cmd.Args, err, drawn)
	}
	return string(drawn)
}
