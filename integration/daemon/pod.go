// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod is a pod on the host's network, run through CRI.
type Pod struct {
	ID     string
	d      *Daemon
	config *cri.PodSandboxConfig
}

// RunPod runs a pod, for which CRI pulls the sandbox image if it is not there. It goes with the daemon,
// if it is not removed before.
func (d *Daemon) RunPod(tb testing.TB, name string) (*Pod, error) {
	tb.Helper()
	_, runtime := d.CRI(tb)
	p := &Pod{d: d, config: &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "test"},
		LogDirectory: filepath.Join(d.Dir, "logs", name),
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/" + d.cgroup(), SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
		}},
	}}
	resp, err := runtime.RunPodSandbox(tb.Context(), &cri.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		return nil, err
	}
	p.ID = resp.PodSandboxId
	return p, nil
}

// Run pulls nothing: it runs a container of an image that is there to its end, and returns its log without the time,
// stream and tag that CRI puts before each line.
func (p *Pod) Run(tb testing.TB, name, image string, args ...string) string {
	tb.Helper()
	_, runtime := p.d.CRI(tb)
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: image},
		Args:     args,
		LogPath:  name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
		}},
	}
	created, err := runtime.CreateContainer(tb.Context(),
		&cri.CreateContainerRequest{PodSandboxId: p.ID, Config: config, SandboxConfig: p.config})
	if err != nil {
		tb.Fatalf("create container of %s: %v", image, err)
	}
	if _, err := runtime.StartContainer(tb.Context(), &cri.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		tb.Fatalf("start container of %s: %v", image, err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := runtime.ContainerStatus(tb.Context(), &cri.ContainerStatusRequest{ContainerId: created.ContainerId})
		if err != nil {
			tb.Fatal(err)
		}
		if resp.Status.State == cri.ContainerState_CONTAINER_EXITED {
			if resp.Status.ExitCode != 0 {
				tb.Errorf("container of %s: got exit code %d (%s), want 0", image, resp.Status.ExitCode, resp.Status.Message)
			}
			break
		}
		if time.Now().After(end) {
			tb.Fatalf("container of %s: got state %s after 20s, want it to have ended", image, resp.Status.State)
		}
	}
	return p.log(tb, config.LogPath)
}

// Remove stops and removes the pod and its containers.
func (p *Pod) Remove(tb testing.TB) {
	tb.Helper()
	_, runtime := p.d.CRI(tb)
	if _, err := runtime.StopPodSandbox(tb.Context(), &cri.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		tb.Errorf("stop pod: %v", err)
	}
	if _, err := runtime.RemovePodSandbox(tb.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		tb.Errorf("remove pod: %v", err)
	}
}

func (p *Pod) log(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(p.config.LogDirectory, name))
	if err != nil {
		tb.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			out.WriteString(fields[3])
		}
	}
	return out.String()
}
