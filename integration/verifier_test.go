// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// verifierEnv makes this test binary an image verifier: it names the directory to which arguments are noted, and in
// which a file "deny" says why every image is refused.
const verifierEnv = "BERTH_TEST_VERIFIER"

func init() {
	dir := os.Getenv(verifierEnv)
	if dir == "" || len(os.Args) < 2 || os.Args[1] != "-name" {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, "verified"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, strings.Join(os.Args[1:], " "))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	if why, err := os.ReadFile(filepath.Join(dir, "deny")); err == nil {
		fmt.Print(string(why))
		os.Exit(1)
	}
	os.Exit(0)
}

// TestNamesStayOriginal: rewriting changes only where bytes come from (SEC-30). The verifier, the distribution-source
// label, the events and the records have the original name, and nothing has the registry's; a verifier's no is final,
// and comes before any blob (SEC-39).
func TestNamesStayOriginal(t *testing.T) {
	daemon.RequireRoot(t)
	r, second := registry.Start(t, registry.Options{}), registry.Start(t, registry.Options{})
	img, refused := image.Small("linux/amd64", 150), image.Small("linux/amd64", 151)
	img.Push(t, r, "p/team/app:1")
	refused.Push(t, r, "p/team/bad:1")
	refused.Push(t, second, "p/team/bad:1")
	dir := t.TempDir()
	n := newNode(t, entry(t, r, "")+entry(t, second, "")+rule("quay.io", r.Host()+"/p", second.Host()+"/p"),
		daemon.Options{CRI: true, Env: []string{verifierEnv + "=" + dir}})
	addVerifier(t, n)
	if err := n.Run(t); err != nil {
		t.Fatal(err)
	}
	const ref = "quay.io/team/app:1"
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			events := eventsOf(t, n, c.namespace)
			if err := c.pull(t, n.Daemon, ref); err != nil {
				t.Fatal(err)
			}
			verified, _ := os.ReadFile(filepath.Join(dir, "verified"))
			if want := "-name " + ref + " -digest " + img.Digest.String() + " "; !strings.Contains(string(verified), want) {
				t.Errorf("got verifier called with %q, want %q", verified, want)
			}
			_ = os.Remove(filepath.Join(dir, "verified"))
			content := n.Ctr(t, "--namespace", c.namespace, "content", "ls")
			if want := "containerd.io/distribution.source.quay.io=team/app"; !strings.Contains(content, want) {
				t.Errorf("got content\n%s\nwant the label %s", content, want)
			}
			all := events()
			if !strings.Contains(all, ref) {
				t.Errorf("got events\n%s\nwant one of %s", all, ref)
			}
			for what, text := range map[string]string{"content": content, "events": provenanceIn.ReplaceAllString(all, ""), "verifier": string(verified)} {
				if strings.Contains(text, r.Host()) {
					t.Errorf("got the registry's name in %s:\n%s", what, grep(text, r.Host()))
				}
			}
		})
	}

	write(t, filepath.Join(dir, "deny"), "no signature of ours")
	r.Log.Reset()
	for _, c := range clients {
		wantError(t, c.pull(t, n.Daemon, "quay.io/team/bad:1"), "pull quay.io/team/bad:1", "verifier policy rejected image", "no signature of ours")
	}
	if got := r.Log.Match("", "*/blobs/*"); len(got) != 0 {
		t.Errorf("got blobs asked for: %v, want none", got)
	}
	if got := second.Log.Requests(); len(got) != 0 {
		t.Errorf("got requests %v of the second target, want none: the verifier refused the image, not the registry", got)
	}
}

// addVerifier makes this test binary the verifier of a node that was not started yet.
func addVerifier(t testing.TB, n node) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(n.Dir, "verifiers", "policy")); err != nil {
		t.Fatal(err)
	}
}

// TestBundlesAndVerifiers: a verifier is not asked about what a bundle holds, neither when that is loaded nor when it is pulled, unless
// verify = true: one that needs a network would keep a node without one from starting.
func TestBundlesAndVerifiers(t *testing.T) {
	daemon.RequireRoot(t)
	const ref = "quay.io/team/app:1"
	for _, verify := range []bool{false, true} {
		t.Run(fmt.Sprintf("verify = %t", verify), func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "deny"), "no signature of ours")
			l := newLoading(t, "", daemon.Options{CRI: true, Env: []string{verifierEnv + "=" + dir}}, fmt.Sprintf("verify = %t", verify))
			addVerifier(t, l.node)
			img := oneLayer(152, ref)
			l.bundle(t, "bundle.tar", img)
			l.start(t)
			out, good := l.status(t)
			err := pullCRI(t, l.Daemon, ref)
			verified, _ := os.ReadFile(filepath.Join(dir, "verified"))
			if !verify {
				if err != nil || !good || len(verified) > 0 {
					t.Errorf("got pull %v, status\n%s\nverifier called with %q; want both good, and it not called", err, out, verified)
				}
				l.wantLoaded(t, img)
				return
			}
			wantError(t, err, "pull "+ref, "verifier policy rejected image", "no signature of ours")
			if good || !strings.Contains(out, "no signature of ours") {
				t.Errorf("got status\n%s\nwant the image refused", out)
			}
			if want := "-name " + ref + " -digest " + img.Digest.String() + " "; !strings.Contains(string(verified), want) {
				t.Errorf("got verifier called with %q, want %q", verified, want)
			}
			if got := targets(t, l.Daemon, "k8s.io"); len(got) != 0 {
				t.Errorf("got images %v, want none", got)
			}
		})
	}
}

// provenanceIn matches our labels in an event, which name the registry: a key, a few bytes of encoding, and the value.
var provenanceIn = regexp.MustCompile(`(?s)io\.berth\.(source|pulled-as).{1,4}127\.0\.0\.1[-:./a-z0-9]*`)

// eventsOf returns a function that returns the events of a namespace so far, as text. That it is heard, and that it has heard
// everything, is known by events of its own: Subscribe returns before the daemon knows of it.
func eventsOf(t *testing.T, n node, namespace string) func() string {
	t.Helper()
	ctx, cancel := context.WithCancel(namespaces.WithNamespace(t.Context(), namespace))
	t.Cleanup(cancel)
	service := n.Client().EventService()
	events, errs := service.Subscribe(ctx, "namespace=="+namespace)
	publish := func(topic string) {
		t.Helper()
		if err := service.Publish(ctx, topic, &eventtypes.NamespaceUpdate{Name: namespace}); err != nil {
			t.Fatal(err)
		}
	}
	const begin, end = "/test/begin", "/test/end"
	within(t, 10*time.Second, "event", func() bool {
		publish(begin)
		select {
		case <-events:
			return true
		default:
			return false
		}
	})
	return func() string {
		t.Helper()
		publish(end)
		var b strings.Builder
		for limit := time.After(10 * time.Second); ; {
			select {
			case e := <-events:
				switch e.Topic {
				case begin:
				case end:
					return b.String()
				default:
					fmt.Fprintln(&b, e.Topic, e.Event.GetTypeUrl(), string(e.Event.GetValue()))
				}
			case err := <-errs:
				t.Fatalf("events: %v", err)
			case <-limit:
				t.Fatalf("got no end of the events in 10s:\n%s", b.String())
			}
		}
	}
}
