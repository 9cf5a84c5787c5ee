// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
)

// large is an image of so many layers of 8 MiB that do not compress.
func large(seed uint64, layers int) *image.Image {
	var all []image.Layer
	for i := range layers {
		all = append(all, image.NewLayer(image.Random(fmt.Sprint("data", i), seed+uint64(i), 8<<20)))
	}
	return image.New(image.Config{Layers: all})
}

// TestHoldReady listens as systemd does (REL-02): READY=1 comes at once, and with hold_ready after everything is loaded.
func TestHoldReady(t *testing.T) {
	daemon.RequireRoot(t)
	bundle := image.Gzip(image.Tar(image.OCI([]image.Named{large(10, 3).Name("quay.io/large:1")})))
	for _, hold := range []bool{false, true} {
		t.Run(fmt.Sprint(hold), func(t *testing.T) {
			want := 0
			if hold {
				want = 1
			}
			for range 5 { // where there is much else to do, everything may be loaded before the test looks
				socket, ready := systemd(t)
				l := newLoading(t, "", daemon.Options{Level: "info", Env: []string{socket}}, fmt.Sprintf("hold_ready = %v", hold))
				image.WriteFile(t, filepath.Join(l.folder, "large.tgz"), bundle)
				if err := l.Run(t); err != nil {
					t.Fatal(err)
				}
				answered := l.rounds()
				waitReady(t, ready)
				got := l.rounds()
				if answered == 0 && got == want {
					return
				}
				if got < want {
					t.Fatal("got READY before everything was loaded")
				}
			}
			t.Errorf("got everything loaded before the API answered, or before READY, want the API first (REL-01), and READY after %d rounds of loading", want)
		})
	}
}

// TestHoldReadyMends starts on what a power cut under stock left of an image that no bundle has (REL-05): with hold_ready, READY
// comes when it is mended.
func TestHoldReadyMends(t *testing.T) {
	daemon.RequireRoot(t)
	socket, ready := systemd(t)
	l := newLoading(t, "", daemon.Options{Level: "info", Env: []string{socket}, Root: shortDir(t)}, "hold_ready = true")
	img := large(30, 6)
	stock := daemon.Start(t, daemon.Options{Binary: binaries.Path(t, binaries.Stock), Root: l.Root})
	stock.Ctr(t, "-n", "other", "images", "import", image.WriteFile(t, filepath.Join(t.TempDir(), "a.tar"), image.Tar(image.OCI([]image.Named{img.Name("quay.io/large:1")}))))
	stock.Stop(t)
	for i := range 6 {
		zero(t, l.Root, fmt.Sprint("data", i), func(path string) error { return os.Truncate(path, 0) })
	}
	if err := l.Run(t); err != nil {
		t.Fatal(err)
	}
	waitReady(t, ready)
	at := time.Now()
	within(t, 10*time.Second, "lines of the mending", func() bool { return len(l.Log.Lines("unpacked again")) == 6 })
	for _, line := range l.Log.Lines("unpacked again") {
		said, err := time.Parse(time.RFC3339Nano, regexp.MustCompile(`time="([^"]*)"`).FindStringSubmatch(line)[1])
		if err != nil || said.After(at) {
			t.Errorf("got READY at %s, want it after %s, %v", at, line, err)
		}
	}
}

// systemd listens as it does. It returns what a daemon's environment says of that, and what is sent to when the daemon is ready.
func systemd(t *testing.T) (env string, ready <-chan struct{}) {
	t.Helper()
	path := filepath.Join(shortDir(t), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	sent := make(chan struct{}, 1)
	go func() {
		text := make([]byte, 4096)
		for {
			n, err := socket.Read(text)
			if err != nil {
				return
			}
			if strings.Contains(string(text[:n]), "READY=1") {
				sent <- struct{}{}
				return
			}
		}
	}()
	return "NOTIFY_SOCKET=" + path, sent
}

func waitReady(t *testing.T, ready <-chan struct{}) {
	t.Helper()
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("got no READY in 30s")
	}
}

// TestTerminate ends containerd with SIGTERM in the middle of a load (REL-16, L22): it ends within two seconds, no error is
// said, and the next start goes on with what was whole.
func TestTerminate(t *testing.T) {
	daemon.RequireRoot(t)
	img := large(20, 5)
	for name, bundle := range map[string][]byte{
		"a.tar": image.Tar(image.OCI([]image.Named{img.Name("quay.io/large:1")})),
		"a.tgz": image.Gzip(image.Tar(image.OCI([]image.Named{img.Name("quay.io/large:1")}))),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoading(t, "", daemon.Options{Level: "info"})
			image.WriteFile(t, filepath.Join(l.folder, name), bundle)
			blobs := filepath.Join(l.Root, "io.containerd.content.v1.content/blobs/sha256/*")
			l.runLoading(t, func(int) {
				within(t, 10*time.Second, "layer", func() bool {
					found, _ := filepath.Glob(blobs)
					return len(found) >= 3
				})
				start, done := time.Now(), l.Done()
				l.Signal(syscall.SIGTERM)
				select {
				case <-done:
				case <-time.After(10 * time.Second):
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("got an end %s after SIGTERM, want at most 2s", took)
				}
			})
			l.Stop(t)
			if lines := l.Log.Lines("level=error", "bundle"); len(lines) > 0 {
				t.Errorf("got %q, want no error of the bundle", lines)
			}
			l.start(t)
			if out, good := l.status(t); !good {
				t.Errorf("got status\n%s", out)
			}
			if err := img.Compare(l.Rootfs(t, "k8s.io", "quay.io/large:1")); err != nil {
				t.Error(err)
			}
			if read := l.metric(t, "berth_loader_read_bytes_total"); name == "a.tar" && read > float64(img.Bytes()-7<<20) {
				t.Errorf("got %.0f bytes read again of %d, want those of a layer less", read, img.Bytes())
			}
			checkClean(t, l.node, "k8s.io")
		})
	}
}

// metric is the value of a metric without labels.
func (l loading) metric(t testing.TB, name string) float64 {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(l.Metrics(t))
	if found == nil {
		t.Fatalf("got no metric %s", name)
	}
	value, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}
