// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// failure is a registry that does not give the image, and what must be said of it.
type failure struct {
	name    string
	opts    registry.Options
	lines   string   // of [[registries]], in place of those that would do
	domain  string   // in place of the registry's
	tag     string   // in place of 1
	want    []string // in the error; DOMAIN is the registry's
	limit   time.Duration
	pattern string // of a path that is asked for most times at most
	most    int
}

var failures = []failure{
	{name: "wrong password", opts: registry.Options{Users: map[string]string{"ann": "other"}},
		want: []string{"unauthorized", "DOMAIN: "}},
	{name: "no credential", opts: registry.Options{Users: ann}, lines: "CA",
		want: []string{"unauthorized", "asks for a username and a password, and none is configured"}},
	{name: "token of no use", opts: registry.Options{Tokens: &registry.Tokens{Users: map[string]registry.User{"ann": {Password: "s3cret"}}}},
		want: []string{"unauthorized"}},
	{name: "token refused", opts: registry.Options{Tokens: &registry.Tokens{Users: map[string]registry.User{"ann": {Password: "other"}}}},
		want: []string{"fetch token from DOMAIN", "unauthorized"}},
	{name: "unknown authority", lines: login("ann", "s3cret"),
		want: []string{"certificate signed by unknown authority; add its CA to certificates"}},
	{name: "plain HTTP", opts: registry.Options{Plain: true, Users: ann},
		want: []string{"server gave HTTP response to HTTPS client; set insecure = true to allow plain HTTP"}},
	{name: "host not found", domain: "absent.invalid",
		want: []string{"absent.invalid: host not found"}},
	{name: "refused", domain: "REFUSING", want: []string{"DOMAIN: connection refused"}, limit: 2 * time.Second},
	{name: "not found", tag: "none", want: []string{"not found"}},
	{name: "forbidden", opts: faulty("*/manifests/*", registry.Fail(http.StatusForbidden)),
		want: []string{"forbidden", "403", "injected fault"}},
	{name: "too many requests", opts: faulty("*/manifests/*", registry.Fail(http.StatusTooManyRequests, "Retry-After", "1")),
		want: []string{"rate limited", "429"}, pattern: "*/manifests/*", most: 12, limit: 30 * time.Second},
	{name: "server error", opts: faulty("*/manifests/*", registry.Fail(http.StatusInternalServerError)),
		want: []string{"server error", "500"}, pattern: "*/manifests/*", most: 12},
	{name: "server error of a blob", opts: faulty("*/blobs/*", registry.Fail(http.StatusBadGateway)),
		want: []string{"server error", "502"}},
	{name: "truncated manifest", opts: faultyGET("*/manifests/*", registry.Truncate(20)),
		want: []string{"truncated: ", "unexpected EOF"}},
	{name: "truncated blob", opts: faultyGET("*/blobs/*", empty),
		want: []string{"truncated: ", "unexpected EOF"}},
	{name: "wrong blob", opts: faultyGET("*/blobs/*", corrupt),
		want: []string{"unexpected commit"}},
	{name: "manifest of 5 MB", opts: faulty("*/manifests/*", serve(bigManifest())),
		want: []string{"rejecting 5000274 byte manifest"}, pattern: "*/blobs/*"},
	{name: "manifest of 5 MB in an index", opts: faulty("*/manifests/*", serve(image.Index(bigManifest()), bigManifest())),
		want: []string{"manifest " + bigManifest().Digest.String() + " is 5000274 bytes, limit "}, pattern: "*/manifests/*", most: 2},
	{name: "never answers", domain: "SILENT", want: []string{"DOMAIN: stalled: no byte for 700ms"}, limit: 8 * time.Second},
	{name: "hangs", opts: faulty("*/manifests/*", registry.Hang), want: []string{"DOMAIN: stalled: no byte for 700ms"}, limit: 8 * time.Second},
	{name: "stalls in a blob", opts: faultyGET("*/blobs/*", stall), want: []string{"DOMAIN: stalled: no byte for 700ms"}, limit: 20 * time.Second},
}

// faulty puts a fault to every request of a path, and faultyGET to every GET.
func faulty(pattern string, fault registry.Fault) registry.Options {
	return registry.Options{Middleware: registry.On("", pattern, -1, fault)}
}

func faultyGET(pattern string, fault registry.Fault) registry.Options {
	return registry.Options{Middleware: registry.On("GET", pattern, -1, fault)}
}

// stall sends the headers and a first byte, and then nothing.
func stall(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte{0})
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// empty sends the headers and nothing of the body.
func empty(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	w.Header().Set("Content-Length", "100")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// corrupt changes the first byte of what is sent.
func corrupt(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(&corrupting{ResponseWriter: w}, r)
}

type corrupting struct {
	http.ResponseWriter
	begun bool
}

func (w *corrupting) Write(p []byte) (int, error) {
	p = slices.Clone(p)
	if !w.begun {
		p[0] ^= 1
	}
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// bigManifest is an image that no registry would take.
func bigManifest() *image.Image {
	return image.New(image.Config{Annotations: map[string]string{"big": strings.Repeat("x", 5_000_000)}})
}

// serve serves manifests, by their digests and the first of them by tag.
func serve(images ...*image.Image) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		img := images[0]
		for _, one := range images {
			if strings.HasSuffix(r.URL.Path, one.Digest.String()) {
				img = one
			}
		}
		w.Header().Set("Content-Type", img.MediaType)
		w.Header().Set("Docker-Content-Digest", img.Digest.String())
		w.Header().Set("Content-Length", fmt.Sprint(len(img.Content)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(img.Content)
		}
	}
}

// TestFailures has one failure after another. The error names the original reference, the rule and the rewritten
// reference, and says what is wrong and what to do; nothing is stored, and nothing is left behind.
func TestFailures(t *testing.T) {
	daemon.RequireRoot(t)
	good := image.Small("linux/amd64", 90)
	for _, tc := range failures {
		t.Run(tc.name, func(t *testing.T) {
			r := registry.Start(t, tc.opts)
			good.Push(t, r, "p/quay.io/a:1")
			domain, lines := r.Host(), tc.lines
			switch tc.domain {
			case "":
			case "REFUSING":
				domain = registry.Refusing(t)
			case "SILENT":
				domain = registry.Silent(t)
			default:
				domain = tc.domain
			}
			if r.CA != nil && tc.lines == "" || tc.lines == "CA" {
				lines = fmt.Sprintf("certificates = [%q]\n", r.CA.File(t))
			}
			if tc.lines == "" {
				lines += login("ann", "s3cret")
			}
			n := startNode(t, fmt.Sprintf("stall_timeout = \"700ms\"\n[[registries]]\ndomain = %q\n%s\n", domain+"/p", lines), daemon.Options{})
			tag := "1"
			if tc.tag != "" {
				tag = tc.tag
			}
			start := time.Now()
			err := pullTransfer(t, n.Daemon, "quay.io/a:"+tag)
			if took := time.Since(start); tc.limit > 0 && took > tc.limit {
				t.Errorf("got an error after %s, want it within %s", took, tc.limit)
			}
			want := []string{"pull quay.io/a:" + tag, `(rule "*")`, "from " + domain + "/p/quay.io/a:" + tag + ": "}
			for _, text := range tc.want {
				want = append(want, strings.ReplaceAll(text, "DOMAIN", domain))
			}
			wantError(t, err, want...)
			if tc.pattern != "" {
				if got := len(r.Log.Match("", tc.pattern)); got > tc.most {
					t.Errorf("got %d requests of %s, want %d at most", got, tc.pattern, tc.most)
				}
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got error %q, want no password in it", err)
			}
			checkNothingLeft(t, n)
		})
	}
}

// checkNothingLeft checks that a pull that failed left no image, lease or ingest.
func checkNothingLeft(t *testing.T, n node) {
	t.Helper()
	for _, c := range clients {
		ctx := namespaces.WithNamespace(t.Context(), c.namespace)
		if got, err := n.Client().ImageService().List(ctx); err != nil || len(got) != 0 {
			t.Errorf("got images %v %v, want none", got, err)
		}
		if got, err := n.Client().LeasesService().List(ctx); err != nil || len(got) != 0 {
			t.Errorf("got leases %v %v, want none", got, err)
		}
		collectGarbage(t, n.Client(), c.namespace)
		if got, err := n.Client().ContentStore().ListStatuses(ctx); err != nil || len(got) != 0 {
			t.Errorf("got ingests %v %v, want none", got, err)
		}
		if got := n.Ctr(t, "--namespace", c.namespace, "content", "ls", "-q"); got != "" {
			t.Errorf("got content %q, want none", got)
		}
	}
}

// TestReverse is TLS where plain HTTP was expected: what the port speaks is found out, before anything is sent.
func TestReverse(t *testing.T) {
	r := registry.Start(t, registry.Options{Users: ann})
	image.Small("linux/amd64", 91).Push(t, r, "p/quay.io/a:1")
	n := startNode(t, fmt.Sprintf("[[registries]]\ndomain = \"http://%s/p\"\ninsecure = true\n%s\n", r.Host(), login("ann", "s3cret")), daemon.Options{})
	if err := pullCtr(t, n.Daemon, "quay.io/a:1"); err != nil {
		t.Error(err)
	}
	if got := r.Log.Counts(); got.Handshakes == 0 {
		t.Errorf("got %+v, want handshakes of TLS", got)
	}
}

// TestAllTargetsFail names every target that was tried, and why it failed, in order.
func TestAllTargetsFail(t *testing.T) {
	daemon.RequireRoot(t)
	empty, shut := registry.Start(t, registry.Options{}), registry.Start(t, registry.Options{Users: ann})
	broken := registry.Start(t, faulty("*/manifests/*", registry.Fail(http.StatusInternalServerError)))
	gone := registry.Refusing(t)
	n := startNode(t, entry(t, empty, "")+entry(t, shut, "")+entry(t, broken, "")+"[[registries]]\ndomain = "+strconv.Quote(gone)+"\n"+
		rule("quay.io", gone+"/g", empty.Host()+"/e", shut.Host()+"/s", broken.Host()+"/b", "source")+rule("bad.io", "source")+
		"[[rules]]\nfrom = \"quay.io/bad\"\ndeny = true\n", daemon.Options{CRI: true, Hosts: map[string]string{"quay.io": "127.0.0.1"}})
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			err := c.pull(t, n.Daemon, "quay.io/a:1")
			if err == nil {
				t.Fatal("got no error")
			}
			// The first target is known to be down from the second pull on, and is then tried last.
			parts := []string{"from " + empty.Host() + "/e/a:1: not found", "from " + shut.Host() + "/s/a:1: unauthorized",
				"from " + broken.Host() + "/b/a:1: server error", "from quay.io/a:1: "}
			down := "from " + gone + "/g/a:1: " + gone + ": connection refused"
			if c.name == "CRI" {
				parts = append([]string{down}, parts...)
			} else {
				parts = append(parts, down)
			}
			at := 0
			for _, part := range append([]string{`pull quay.io/a:1 (rule "quay.io"): `}, parts...) {
				i := strings.Index(err.Error()[at:], part)
				if i < 0 {
					t.Fatalf("got error %q, want it to have %q, in the order of %q", err, part, parts)
				}
				at += i
			}
			wantError(t, c.pull(t, n.Daemon, "quay.io/bad/x:1"), "pull quay.io/bad/x:1: ", `denied by rule "quay.io/bad"`)
		})
	}
	if got := n.Metrics(t); !strings.Contains(got, `berth_pulls_refused_total{cause="denied"} 3`) {
		t.Errorf("got metrics\n%s\nwant three pulls refused", grep(got, "refused"))
	}
}
