// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Command demo shows Berth end to end, on real parts: a pull that is rewritten, from an authenticated registry with TLS that
// holds an image under spectro-images/quay.io/… while clients ask for quay.io/…; and a pod from a bundle alone, with no
// registry. It cleans up after itself.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/program"
	"github.com/berth-edge/berth/integration/registry"
)

const (
	tool  = "quay.io/demo/hello:1"
	pause = "registry.k8s.io/pause:3.10"
	path  = "spectro-images"
)

func main() {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: containerd needs root; try again with sudo")
		os.Exit(1)
	}
	start := time.Now()
	code := program.Run(func(tb testing.TB) {
		tb.Cleanup(binaries.Remove)
		showPull(tb)
		showBundle(tb)
	})
	if code == 0 {
		fmt.Printf("\nDone in %s; nothing is left behind.\n", time.Since(start).Round(time.Second))
	}
	os.Exit(code)
}

func step(format string, args ...any) { fmt.Printf("\n# "+format+"\n", args...) }

func showPull(tb testing.TB) {
	step("Building containerd, berth, ctr, runc and the shim: a minute or two the first time")
	binaries.Dir(tb, binaries.Containerd, binaries.Berth, binaries.Ctr, binaries.Shim, binaries.Runc)

	step("A registry with TLS from a private authority, and a password")
	r := registry.Start(tb, registry.Options{Users: map[string]string{"node": "demo-password"}})
	image.Hello(tb, "from", "the", "private", "registry").Push(tb, r, path+"/"+tool)
	image.Pause(tb).Push(tb, r, path+"/"+pause)
	fmt.Printf("%s holds %s/%s\nand %s/%s\n", r.URL(), path, tool, path, pause)

	etc := tb.TempDir()
	file := filepath.Join(etc, "registry.toml")
	config := fmt.Sprintf("[[registries]]\ndomain = %q\nusername = \"node\"\npassword_file = %q\ncertificates = [%q]\n",
		r.Host()+"/"+path, filepath.Join(etc, "password"), r.CA.File(tb))
	write(tb, filepath.Join(etc, "password"), "demo-password\n")
	write(tb, file, config)
	step("The one file that a node needs, usually below /etc/berth:")
	fmt.Print(config)

	step("berth explain, before anything is pulled")
	fmt.Print(berth(tb, "explain", "--config", file, tool))

	step("Our containerd, in a directory of its own")
	d := daemon.Start(tb, daemon.Options{
		Binary: binaries.Path(tb, binaries.Containerd), CRI: true, Pause: pause,
		Config: fmt.Sprintf("version = 3\nrequired_plugins = [\"io.containerd.resolver.v1.external-registry\"]\n"+
			"[plugins.\"io.containerd.resolver.v1.external-registry\"]\nconfig_path = [%q]\n", filepath.Join(etc, "*.toml")),
	})
	fmt.Println("directory:", d.Dir)
	fmt.Print(berth(tb, "status", "--address", d.Address))

	step("ctr image pull %s, and a container from it", tool)
	d.Ctr(tb, "image", "pull", tool)
	fmt.Print("the container says: " + d.CtrRun(tb, "default", tool, "demo"))

	step("The same through CRI, as kubelet does it: a pull, a pod, a container")
	images, _ := d.CRI(tb)
	if _, err := images.PullImage(tb.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: tool}}); err != nil {
		tb.Fatal(err)
	}
	pod, err := d.RunPod(tb, "demo")
	if err != nil {
		tb.Fatal(err)
	}
	fmt.Print("the container says: " + pod.Run(tb, "hello", tool))
	pod.Remove(tb)

	step("What was rewritten, from containerd's log")
	for line := range strings.Lines(d.Log.String()) {
		if strings.Contains(line, "pulled image") {
			fmt.Print(line)
		}
	}
	step("What the registry was asked")
	fmt.Print(r.Log.Lines())
	step("The image keeps its name")
	fmt.Print(d.Ctr(tb, "--namespace", "k8s.io", "image", "ls", "-q"))
	d.Stop(tb)
}

// showBundle boots a node whose only registry does not exist.
func showBundle(tb testing.TB) {
	folder := tb.TempDir()
	if err := os.Chmod(folder, 0o755); err != nil {
		tb.Fatal(err)
	}
	step("Without a network: a bundle as an OS image ships it, usually below /opt/kube-images")
	bundle := image.WriteFile(tb, filepath.Join(folder, "core.tar"), image.Tar(image.OCI([]image.Named{
		image.Pause(tb).Name(pause), image.Hello(tb, "from", "the", "bundle").Name(tool),
	})))
	fmt.Printf("%s holds %s and %s\n", bundle, pause, tool)
	d := daemon.Start(tb, daemon.Options{
		Binary: binaries.Path(tb, binaries.Containerd), CRI: true, Pause: pause,
		Config: fmt.Sprintf("version = 3\n[plugins.\"io.containerd.resolver.v1.external-registry\"]\nconfig_path = []\n"+
			"[[plugins.\"io.containerd.resolver.v1.external-registry\".registries]]\ndomain = \"registry.invalid\"\n"+
			"[plugins.\"io.containerd.loader.v1.bundle\"]\npaths = [%q]\n", folder),
	})

	step("A pod from it, started while it is loaded; kubelet would ask to pull always")
	images, _ := d.CRI(tb)
	if _, err := images.PullImage(tb.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: tool}}); err != nil {
		tb.Fatal(err)
	}
	pod, err := d.RunPod(tb, "bundled")
	if err != nil {
		tb.Fatal(err)
	}
	fmt.Print("the container says: " + pod.Run(tb, "hello", tool))
	pod.Remove(tb)

	step("What was loaded; the registry of this node, registry.invalid, was never asked")
	fmt.Print(berth(tb, "status", "--address", d.Address))
}

func berth(tb testing.TB, args ...string) string {
	out, err := exec.CommandContext(tb.Context(), binaries.Path(tb, binaries.Berth), args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("berth %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(tb testing.TB, path, text string) {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}
