// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestProvenance checks what a pull leaves behind: a line in the log, labels, metrics, and ctr's progress line. The
// first target of the rule refuses connections, so that there is a fallback too.
func TestProvenance(t *testing.T) {
	r := registry.Start(t, registry.Options{})
	gone := registry.Refusing(t)
	img := image.Small("linux/amd64", 40)
	img.Push(t, r, "mirror/app:1")
	n := startNode(t, entry(t, r, "mirror")+fmt.Sprintf("[[registries]]\ndomain = %q\n", gone)+
		rule("quay.io/team", gone+"/gone", r.Host()+"/mirror"), daemon.Options{CRI: true})

	const ref = "quay.io/team/app:1"
	target := r.Host() + "/mirror"
	started := time.Now().Add(-time.Second)
	out := n.Ctr(t, "images", "pull", ref)
	if want := "OCI Registry (" + target + "/app:1)"; !strings.Contains(out, want) {
		t.Errorf("got progress\n%s\nwant it to name %q", out, want)
	}

	ctx := namespaces.WithNamespace(t.Context(), "default")
	got, err := n.Client().GetImage(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	for label, want := range map[string]string{
		"io.berth.source": target, "io.berth.pulled-as": target + "/app:1", "io.berth.rule": "quay.io/team",
	} {
		if got := got.Labels()[label]; got != want {
			t.Errorf("got label %s %q, want %q", label, got, want)
		}
	}
	at, err := time.Parse(time.RFC3339, got.Labels()["io.berth.pulled-at"])
	if err != nil || at.Before(started.Add(-time.Second)) || at.After(time.Now()) {
		t.Errorf("got label io.berth.pulled-at %v %v, want the time of the pull", at, err)
	}

	lines := n.Log.Lines(`msg="pulled image"`)
	if len(lines) != 1 {
		t.Fatalf("got lines %q, want one", lines)
	}
	for _, field := range []string{"level=info", "ref=\"?" + ref + "\"?", "source=\"?" + target + "\"?", "pulled-as=\"?" + target + "/app:1\"?",
		"rule=\"?quay.io/team\"?", "digest=\"?" + img.Digest.String() + "\"?", fmt.Sprintf("bytes=%d", img.Bytes()), `seconds=\d*\.\d+(e-\d+)?`} {
		if !regexp.MustCompile(" " + field + "( |$)").MatchString(lines[0]) {
			t.Errorf("got line %s\nwant the field %s", lines[0], field)
		}
	}
	if got := n.Log.Lines("level=warning", "trying the next", gone, "connection refused"); len(got) != 1 {
		t.Errorf("got lines %q of the target that failed, want one", got)
	}

	metrics := n.Metrics(t)
	for _, want := range []string{
		"berth_configured 1",
		fmt.Sprintf(`berth_pulls_total{kind="registry",outcome="ok",registry=%q} 1`, target),
		fmt.Sprintf(`berth_pulls_total{kind="registry",outcome="connection_refused",registry=%q} 1`, gone),
		fmt.Sprintf(`berth_pull_fallbacks_total{cause="connection_refused",registry=%q} 1`, gone),
		fmt.Sprintf(`berth_pull_bytes_total{kind="registry",registry=%q} %d`, target, img.Bytes()),
		fmt.Sprintf(`berth_pull_seconds_count{kind="registry",registry=%q} 1`, target),
	} {
		if !strings.Contains(metrics, "\n"+want+"\n") {
			t.Errorf("got metrics without %q:\n%s", want, grep(metrics, "berth_"))
		}
	}

	// CRI's records: the one that was pulled, and those that CRI makes itself.
	if err := pullCRI(t, n.Daemon, ref); err != nil {
		t.Fatal(err)
	}
	inCRI, err := n.Client().GetImage(namespaces.WithNamespace(t.Context(), "k8s.io"), ref)
	if err != nil {
		t.Fatal(err)
	}
	for label, want := range map[string]string{"io.berth.pulled-as": target + "/app:1", "io.cri-containerd.image": "managed"} {
		if got := inCRI.Labels()[label]; got != want {
			t.Errorf("got label %s %q in CRI's namespace, want %q", label, got, want)
		}
	}
	// The target that could not be reached is put last for a while.
	if got := n.Log.Lines("put last", gone); len(got) != 1 {
		t.Errorf("got lines %q of the target put last, want one", got)
	}
}

// grep returns the lines of text that contain part.
func grep(text, part string) string {
	var found strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found.WriteString(line)
		}
	}
	return found.String()
}
