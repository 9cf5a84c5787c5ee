// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	testregistry "github.com/berth-edge/berth/integration/registry"
)

// canaries are the secrets of the run below. Their characters are written differently in URLs, in TOML and in base64.
const (
	canaryFile     = "file-Zk3v/+ %7!w"
	canaryEncoded  = "encoded-Qp9x:&=x"
	canaryIdentity = "identity-Lm2n.o~p"
	canaryPod      = "pod-Rt5y#u*i"
	canaryHeader   = "header-Gh6j-k-l"
	canarySigned   = "signed-Bv4c-n-m"
	canaryWrong    = "wrong-Sd8f@g(h"
)

// formsOf are the ways in which a secret of a user is written.
func formsOf(user, secret string) []string {
	return []string{secret, url.QueryEscape(secret), url.PathEscape(secret), fmt.Sprintf("%q", secret)[1 : len(secret)+1],
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		base64.StdEncoding.EncodeToString([]byte(user + ":" + secret)), hex.EncodeToString([]byte(secret))}
}

// haystack is everything that a run has left to be read, by what it is.
type haystack map[string]string

// find returns where the needles are.
func (h haystack) find(needles ...string) (found []string) {
	for where, text := range h {
		for _, needle := range needles {
			if strings.Contains(text, needle) {
				found = append(found, where+" has "+needle)
			}
		}
	}
	return found
}

// TestNoSecretIsShown uses every kind of secret, in pulls that succeed and that fail, with registries that send back
// what they were sent, and looks for them in everything that can be read afterwards (SEC-08), and in the data
// directories (SEC-14). The looking itself is tried with what must be there.
func TestNoSecretIsShown(t *testing.T) {
	daemon.RequireRoot(t)
	users := func(password string) map[string]string { return map[string]string{"u": password} }
	echo := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Authorization") == "" {
			next.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"no entry for %s, %s"}]}`, r.Header.Get("Authorization"), canaryFile)
	}
	tokens := func() *testregistry.Tokens {
		return &testregistry.Tokens{Users: map[string]testregistry.User{
			"u": {Password: canaryEncoded, Identity: canaryIdentity, Scopes: []string{"repository:*:pull"}}}}
	}
	cdn := testregistry.Start(t, testregistry.Options{})
	signed := func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Location", cdn.URL()+r.URL.Path+"?X-Signature="+canarySigned)
		w.Header().Set("Set-Cookie", "session="+canarySigned)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
	basic := testregistry.Start(t, testregistry.Options{Users: users(canaryFile)})
	token := testregistry.Start(t, testregistry.Options{Tokens: tokens()})
	identity := testregistry.Start(t, testregistry.Options{Tokens: tokens()})
	echoing := testregistry.Start(t, testregistry.Options{Users: users(canaryFile), Middleware: testregistry.On("", "*/manifests/*", -1, echo)})
	wrong := testregistry.Start(t, testregistry.Options{Users: users("another")})
	redirecting := testregistry.Start(t, testregistry.Options{CA: cdn.CA, Middleware: testregistry.On("GET", "*/blobs/*", -1, signed)})
	pods := testregistry.Start(t, testregistry.Options{Users: users(canaryPod)})
	for i, r := range []*testregistry.Registry{basic, token, identity, pods, redirecting, cdn} {
		image.Small("linux/amd64", 200+2*uint64(min(i, 4))).Push(t, r, "p/visible-canary:1")
	}

	secret := t.TempDir() + "/password"
	write(t, secret, canaryFile+"\n")
	fromFile := fmt.Sprintf("username = \"u\"\npassword_file = %q", secret)
	n := startNode(t, entry(t, basic, "", fromFile)+
		entry(t, token, "", fmt.Sprintf("username = \"u\"\nencoded_password = %q", base64.StdEncoding.EncodeToString([]byte(canaryEncoded))))+
		entry(t, identity, "", login("<token>", canaryIdentity))+
		entry(t, echoing, "", fromFile)+entry(t, wrong, "", login("u", canaryWrong))+entry(t, redirecting, "")+
		rule("basic.test", basic.Host()+"/p")+rule("token.test", token.Host()+"/p")+rule("identity.test", identity.Host()+"/p")+
		rule("echo.test", echoing.Host()+"/p")+rule("wrong.test", wrong.Host()+"/p")+rule("redirect.test", redirecting.Host()+"/p")+
		rule("several.test", wrong.Host()+"/p", echoing.Host()+"/p")+rule("*", "source"),
		daemon.Options{CRI: true, Level: "trace"})

	h := haystack{}
	events := eventsOf(t, n, "k8s.io")
	auth := &cri.AuthConfig{Username: "u", Password: canaryPod}
	for _, name := range []string{"basic", "token", "identity", "echo", "wrong", "redirect", "several"} {
		ref := name + ".test/visible-canary:1"
		if err := pullCRIAs(t, n.Daemon, ref, auth); err != nil {
			h["error of "+name] = err.Error()
		}
		ctx := namespaces.WithNamespace(t.Context(), "go")
		if err := transferIn(ctx, n.Daemon, ref, registry.WithHeaders(http.Header{"X-Api-Key": {canaryHeader}})); err != nil {
			h["error of a transfer from "+name] = err.Error()
		}
	}
	// The pod's registry is reached as by stock, which verifies no certificate of loopback.
	if err := pullCRIAs(t, n.Daemon, pods.Host()+"/p/visible-canary:1", auth); err != nil {
		t.Errorf("pull with a pod's secret: %v", err)
	}
	for name, r := range map[string]*testregistry.Registry{"basic": basic, "token": token, "identity": identity, "pods": pods, "cdn": cdn} {
		if len(served(r, "/v2/p/visible-canary/blobs/*")) == 0 {
			t.Errorf("%s: got no blob served, want the secrets to be used:\n%s", name, r.Log.Lines())
		}
	}
	if len(h) != 6 {
		t.Errorf("got %d pulls that failed, want 6: %v", len(h), h)
	}
	if want := "no entry for Basic ***, ***"; !strings.Contains(h["error of echo"], want) {
		t.Errorf("got error %q of a registry that sends secrets back, want %q in it", h["error of echo"], want)
	}
	for _, name := range []string{"basic", "token"} {
		h["ctr with --http-dump of "+name] = n.Ctr(t, "images", "pull", "--http-dump", "--http-trace", name+".test/visible-canary:1")
	}
	h.collect(t, n, events())

	needles := append(formsOf("u", canaryFile), formsOf("u", canaryEncoded)...)
	needles = append(needles, formsOf("<token>", canaryIdentity)...)
	for _, secret := range []string{canaryPod, canaryHeader, canarySigned, canaryWrong} {
		needles = append(needles, formsOf("u", secret)...)
	}
	for _, r := range []*testregistry.Registry{token, identity} {
		for _, req := range r.Log.Containing("Bearer ") {
			_, issued, _ := strings.Cut(string(req.Raw), "Bearer ")
			issued, _, _ = strings.Cut(issued, "\r\n")
			needles = append(needles, formsOf("", issued)...)
		}
	}
	if len(needles) < 8*8 {
		t.Errorf("got %d needles, want those of tokens among them", len(needles))
	}
	for _, found := range h.find(needles...) {
		t.Error(found)
	}
	// Each of the places holds something of the run, and the search finds a secret that is planted there.
	for where, text := range h {
		if len((haystack{where: text}).find("visible-canary", basic.Host(), n.Dir, "io.containerd.")) == 0 {
			t.Errorf("got %s without anything of the run: %.300q", where, text)
		}
		planted := haystack{where: text + base64.StdEncoding.EncodeToString([]byte("u:"+canaryPod))}
		if len(planted.find(needles...)) != 1 {
			t.Errorf("got nothing found in %s, where a secret was planted", where)
		}
	}
}

// collect reads everything of a node that can be read.
func (h haystack) collect(t *testing.T, n node, events string) {
	t.Helper()
	h["events"] = events
	h["metrics"] = n.Metrics(t)
	h["images"] = n.Ctr(t, "--namespace", "k8s.io", "images", "ls")
	h["content"] = n.Ctr(t, "--namespace", "k8s.io", "content", "ls")
	h["plugins"] = n.Ctr(t, "plugins", "ls", "-d")
	h["status"], _, _ = berth(t, "status", "--address", n.Address)
	refs := []string{"basic.test/visible-canary:1", "several.test/visible-canary:1"}
	h["explain"], _, _ = berth(t, append([]string{"explain", "--config", n.ConfigFile()}, refs...)...)
	h["explain as JSON"], _, _ = berth(t, append([]string{"explain", "-o", "json", "--config", n.ConfigFile()}, refs...)...)
	out, problems, _ := berth(t, "config", "check", "--config", n.ConfigFile())
	h["config check"] = out + problems + n.Dir
	dump, err := exec.CommandContext(t.Context(), binaries.Path(t, binaries.Containerd), "--config", n.ConfigFile(), "config", "dump").CombinedOutput()
	if err != nil {
		t.Errorf("config dump: %v\n%s", err, dump)
	}
	h["config dump"] = string(dump)
	for _, file := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", n.PID(), file))
		if err != nil {
			t.Error(err)
		}
		h[file] = string(text) + n.Dir
	}
	n.Signal(syscall.SIGUSR1)
	within(t, 10*time.Second, "stack dump", func() bool { return strings.Contains(n.Log.String(), "END goroutine stack dump") })
	for _, dir := range []string{n.Root, filepath.Join(n.Dir, "state"), filepath.Join(n.Dir, "temp")} {
		h["files of "+dir] = n.Dir + files(t, dir)
	}
	h["log"] = n.Log.String()
}

// files returns the names and the content of all files below dir.
func files(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // what vanished meanwhile is of no interest
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintln(&b, path)
		_, err = io.Copy(&b, f)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return b.String()
}
