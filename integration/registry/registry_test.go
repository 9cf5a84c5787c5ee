// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

const manifest = "application/vnd.oci.image.manifest.v1+json"

// client returns a client of its own connections that trusts r.
func client(t *testing.T, r *registry.Registry) *http.Client {
	transport := &http.Transport{ForceAttemptHTTP2: true}
	if r.CA != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: r.CA.Pool()}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t *testing.T, c *http.Client, address string, header ...string) (int, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func TestOpen(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts registry.Options
	}{
		{"tls", registry.Options{}},
		{"plain", registry.Options{Plain: true}},
		{"ipv6", registry.Options{Addr: "[::1]:0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := registry.Start(t, tc.opts)
			img := image.Small("linux/amd64", 1)
			img.Push(t, r, "a/b:1")
			status, body, err := get(t, client(t, r), r.URL()+"/v2/a/b/manifests/1?ns=x", "Accept", img.MediaType)
			if err != nil || status != 200 || string(body) != string(img.Content) {
				t.Fatalf("got %d %s %v, want the manifest", status, body, err)
			}
			want := fmt.Sprintf("GET %s/v2/a/b/manifests/1?ns=x - 200\n", r.Host())
			if got := r.Log.Lines(); got != want {
				t.Errorf("got log %q, want %q", got, want)
			}
			counts := r.Log.Counts()
			if hello := map[bool]int{false: 1, true: 0}[tc.opts.Plain]; counts.Conns != 1 || counts.Handshakes != hello {
				t.Errorf("got %+v, want 1 connection and %d handshakes", counts, hello)
			}
		})
	}
}

func TestUsers(t *testing.T) {
	r := registry.Start(t, registry.Options{Users: map[string]string{"ann": "s3cret"}})
	image.Small("linux/amd64", 1).Push(t, r, "a:1")
	c := client(t, r)
	for _, tc := range []struct {
		user string
		want int
	}{{"", 401}, {"ann:wrong@", 401}, {"ann:s3cret@", 200}} {
		status, _, err := get(t, c, strings.Replace(r.URL(), "//", "//"+tc.user, 1)+"/v2/a/manifests/1", "Accept", manifest)
		if err != nil || status != tc.want {
			t.Errorf("%s: got %d %v, want %d", tc.user, status, err, tc.want)
		}
	}
	if got := len(r.Log.Containing("Basic ")); got != 2 {
		t.Errorf("got %d requests with a credential, want 2", got)
	}
}

func TestTokens(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		t.Run(fmt.Sprintf("elsewhere=%t", elsewhere), func(t *testing.T) {
			r := registry.Start(t, registry.Options{Tokens: &registry.Tokens{
				Elsewhere: elsewhere,
				Expiry:    2 * time.Second,
				Users: map[string]registry.User{
					"ann": {Password: "s3cret", Identity: "1dentity", Scopes: []string{"repository:mine/*:pull"}},
				},
			}})
			image.Small("linux/amd64", 1).Push(t, r, "mine/a/b:1")
			c := client(t, r)
			host := r.TokenHost()
			if !elsewhere {
				host = r.Host()
			}
			// pull asks for a token with the form, in the query or as a post, and pulls with it.
			pull := func(method, user string, form url.Values) int {
				address := "https://" + user + host + "/token"
				req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(form.Encode()))
				if err != nil {
					t.Fatal(err)
				}
				if method == http.MethodGet {
					req.URL.RawQuery, req.Body = form.Encode(), nil
				}
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				var answer struct{ Token string }
				if resp.StatusCode != http.StatusOK {
					return resp.StatusCode
				}
				if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
					t.Fatal(err)
				}
				status, _, err := get(t, c, r.URL()+"/v2/mine/a/b/manifests/1", "Accept", manifest, "Authorization", "Bearer "+answer.Token)
				if err != nil {
					t.Fatal(err)
				}
				if user != "" && status == 200 { // and no longer when it has expired
					time.Sleep(3 * time.Second)
					late, _, err := get(t, c, r.URL()+"/v2/mine/a/b/manifests/1", "Accept", manifest, "Authorization", "Bearer "+answer.Token)
					if err != nil || late != 401 {
						t.Errorf("after expiry got %d %v, want 401", late, err)
					}
				}
				return status
			}
			scope := []string{"repository:mine/a/b:pull"}
			for _, tc := range []struct {
				name, method, user string
				form               url.Values
				want               int
			}{
				{"password by get", "GET", "ann:s3cret@", url.Values{"scope": scope}, 200},
				{"wrong password", "GET", "ann:wrong@", url.Values{"scope": scope}, 401},
				{"nobody", "GET", "", url.Values{"scope": scope}, 401},
				{"wrong scope", "GET", "ann:s3cret@", url.Values{"scope": {"repository:other:pull"}}, 401},
				{"password by post", "POST", "", url.Values{"scope": scope, "grant_type": {"password"}, "username": {"ann"}, "password": {"s3cret"}}, 200},
				{"identity token", "POST", "", url.Values{"scope": scope, "grant_type": {"refresh_token"}, "refresh_token": {"1dentity"}}, 200},
				{"wrong identity", "POST", "", url.Values{"scope": scope, "grant_type": {"refresh_token"}, "refresh_token": {"x"}}, 401},
			} {
				t.Run(tc.name, func(t *testing.T) {
					t.Parallel()
					if got := pull(tc.method, tc.user, tc.form); got != tc.want {
						t.Errorf("got %d, want %d", got, tc.want)
					}
				})
			}
			t.Cleanup(func() {
				if got := len(r.Log.Containing("1dentity")); got != 1 {
					t.Errorf("got %d requests with the identity token, want 1", got)
				}
			})
		})
	}
}

func TestDelay(t *testing.T) {
	const d = 30 * time.Millisecond
	r := registry.Start(t, registry.Options{Delay: d})
	img := image.New(image.Config{Layers: []image.Layer{image.NewLayer(image.Random("big", 1, 16<<20))}})
	img.Push(t, r, "a:1")
	timed := func(c *http.Client, address string) time.Duration {
		start := time.Now()
		if status, _, err := get(t, c, address, "Accept", manifest); err != nil || status != 200 {
			t.Fatalf("got %d %v, want 200", status, err)
		}
		return time.Since(start)
	}
	// The shortest of several is what the delay alone takes, also where there is much else to do.
	var c *http.Client
	var first, next []time.Duration
	for range 5 {
		c = client(t, r)
		first = append(first, timed(c, r.URL()+"/v2/"))
		next = append(next, timed(c, r.URL()+"/v2/"))
	}
	if got := slices.Min(first); got < 3*d || got > 5*d {
		t.Errorf("got %s for connect, handshake and request, want 3 to 5 times %s", got, d)
	}
	if got := slices.Min(next); got < d || got > 2*d {
		t.Errorf("got %s for a request, want 1 to 2 times %s", got, d)
	}
	// The delayed listener has TLS besides, so this is only to find a bandwidth that depends on the delay.
	blob := "/v2/a/blobs/" + img.Layers[0].Digest.String()
	direct, delayed := timed(c, r.PushURL()+blob), timed(c, r.URL()+blob)
	if limit := 10*direct + 10*d; delayed > limit {
		t.Errorf("got %s for 16 MiB, want at most %s: without delay it takes %s", delayed, limit, direct)
	}
}

func TestFaults(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault registry.Fault
		want  string
	}{
		{"fail", registry.Fail(429, "Retry-After", "2"), "429"},
		{"truncate", registry.Truncate(10), "unexpected EOF"},
		{"body", registry.Body([]byte("other")), "200 other"},
		{"redirect", registry.Redirect("http://127.0.0.1:1"), "connection refused"},
		{"hang", registry.Hang, "deadline exceeded"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := registry.Start(t, registry.Options{
				HTTP1:      true,
				Middleware: registry.On("GET", "/v2/*/manifests/1", 1, tc.fault),
			})
			img := image.Small("linux/amd64", 1)
			img.Push(t, r, "a/b:1")
			c := client(t, r)
			c.Timeout = time.Second
			address := r.URL() + "/v2/a/b/manifests/1"
			status, body, err := get(t, c, address, "Accept", manifest)
			if got := fmt.Sprint(status, " ", string(body), " ", err); !strings.Contains(got, tc.want) {
				t.Errorf("got %s, want %q in it", got, tc.want)
			}
			if status, body, err := get(t, c, address, "Accept", manifest); status != 200 || string(body) != string(img.Content) {
				t.Errorf("then got %d %s %v, want the manifest", status, body, err)
			}
		})
	}
}

func TestDockerImages(t *testing.T) {
	r := registry.Start(t, registry.Options{})
	one := func(platform string) *image.Image {
		return image.New(image.Config{Platform: platform, Docker: true, Layers: image.Small(platform, 3).Layers})
	}
	for ref, img := range map[string]*image.Image{"a:one": one("linux/amd64"), "a:list": image.Index(one("linux/amd64"), one("linux/arm64"))} {
		img.Push(t, r, ref)
		status, body, err := get(t, client(t, r), r.URL()+"/v2/a/manifests/"+ref[2:], "Accept", img.MediaType)
		if status != 200 || string(body) != string(img.Content) {
			t.Errorf("%s: got %d %s %v, want %s", ref, status, body, err, img.Content)
		}
	}
}

func TestStopAndResume(t *testing.T) {
	r := registry.Start(t, registry.Options{})
	c := client(t, r)
	r.Stop()
	if _, _, err := get(t, c, r.URL()+"/v2/"); err == nil {
		t.Error("got an answer from a stopped registry, want none")
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	if status, _, err := get(t, c, r.URL()+"/v2/"); status != 200 {
		t.Errorf("got %d %v after resuming, want 200", status, err)
	}
}

func TestSilent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+registry.Silent(t)+"/v2/", nil)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_ = resp.Body.Close()
		t.Errorf("got %s, want no answer", resp.Status)
	}
}
