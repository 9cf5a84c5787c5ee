// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/credential"
)

// SEC-02: addresses to which a name of a token realm may not lead. Most cannot be listened on in a test.
func TestRefuseLocal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		address string
		refused bool
	}{
		{"127.0.0.1:443", true},
		{"127.255.255.254:443", true},
		{"[::1]:443", true},
		{"[::ffff:127.0.0.1]:443", true},
		{"169.254.169.254:80", true},
		{"[fe80::1]:443", true},
		{"0.0.0.0:443", true},
		{"[::]:443", true},
		{"224.0.0.1:443", true},
		{"[ff02::1]:443", true},
		{"192.0.2.1:443", false},
		{"10.10.254.254:443", false},
		{"[2001:db8::1]:443", false},
	} {
		if err := refuseLocal("tcp", tt.address, nil); errors.Is(err, errLocalRealm) != tt.refused || !tt.refused && err != nil {
			t.Errorf("%s: got %v, want refused %t", tt.address, err, tt.refused)
		}
	}
	for _, address := range []string{"", "192.0.2.1", "name.test:443"} {
		if err := refuseLocal("tcp", address, nil); err == nil {
			t.Errorf("%q: got no error, want one: it is no address", address)
		}
	}
}

// C10: a token is used for nine tenths of what its server says of its life, within bounds.
func TestTokenLife(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		seconds int
		want    time.Duration
	}{
		{"not said", 0, 54 * time.Second},
		{"below zero", -1, 54 * time.Second},
		{"short", 10, 9 * time.Second},
		{"usual", 300, 270 * time.Second},
		{"a year", 365 * 24 * 3600, 24 * time.Hour * 9 / 10},
		{"more than fits", math.MaxInt, 24 * time.Hour * 9 / 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := time.Now()
			got := newToken("t", tt.seconds).expires.Sub(before)
			if got < tt.want || got > tt.want+time.Minute {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// What is the registry's own host and port, to which secrets go, however it is spelt.
func TestIsOwn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		host, url string
		want      bool
	}{
		{"reg.test", "https://reg.test/v2/", true},
		{"reg.test", "https://REG.test:443/v2/", true},
		{"reg.test:443", "https://reg.test/v2/", true},
		{"reg.test:5000", "https://reg.test:5000/v2/", true},
		{"reg.test:80", "http://reg.test/v2/", true},
		{"reg.test:5000", "https://reg.test/v2/", false},
		{"reg.test", "https://reg.test:5000/v2/", false},
		{"reg.test", "http://reg.test:443/v2/", false},
		{"reg.test", "https://reg.test:80/v2/", false},
		{"reg.test", "https://reg.test.evil.test/v2/", false},
		{"reg.test", "https://reg.test@evil.test/v2/", false},
		{"[::1]:5000", "https://[0:0:0:0:0:0:0:1]:5000/v2/", true},
		{"[2001:db8::a]", "https://[2001:DB8:0::A]:443/v2/", true},
		{"127.0.0.1:5000", "https://[::ffff:127.0.0.1]:5000/v2/", false},
		{"[::1]:5000", "https://[::1]/v2/", false},
		{"[::1]:5000", "https://[::2]:5000/v2/", false},
		{"[fe80::1]", "https://[fe80::1%25eth0]/v2/", false},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&Endpoint{host: tt.host}).isOwn(u); got != tt.want {
			t.Errorf("%s for %s: got %t, want %t", tt.url, tt.host, got, tt.want)
		}
	}
}

// SEC-02: names that lead to the machine that asks, by any resolver, are not a proxy's business.
func TestDirectIfLocal(t *testing.T) {
	t.Parallel()
	proxy := directIfLocal(func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.test:3128") })
	for _, tt := range []struct {
		host   string
		direct bool
	}{
		{"localhost", true},
		{"LOCALHOST:8443", true},
		{"localhost.", true},
		{"a.b.localhost", true},
		{"127.1", true},
		{"2130706433", true},
		{"0x7f.0.0.0x1", true},
		{"127.0.0.1.", true},
		{"reg.test", false},
		{"localhost.test", false},
		{"notlocalhost", false},
		{"1.test", false},
		{"x.test.", false},
	} {
		got, err := proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: tt.host}})
		if err != nil || (got == nil) != tt.direct {
			t.Errorf("%s: got proxy %v, %v, want none %t", tt.host, got, err, tt.direct)
		}
	}
}

// A registry that could not be reached is not put last once it answers again.
func TestDown(t *testing.T) {
	t.Parallel()
	var ended atomic.Bool
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if ended.CompareAndSwap(false, true) {
			time.Sleep(time.Second)
		}
	}))
	defer server.Close()
	e, err := New(server.Listener.Addr().String(), credential.Source{}.Keychain(), Options{Insecure: true, StallTimeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer e.CloseIdle()
	for _, want := range []bool{true, false} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, _, err := e.roundTrip(req, e.auth)
		if err == nil {
			resp.Body.Close()
		}
		if _, got := e.Down(); got != want {
			t.Errorf("got down %t (%v), want %t", got, err, want)
		}
	}
}

// A realm that is listed with a port is that port alone; without one it is every port.
func TestTrustsRealm(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		listed, realm string
		want          bool
	}{
		{"10.0.0.5", "https://10.0.0.5/token", true},
		{"10.0.0.5", "https://10.0.0.5:8443/token", true},
		{"10.0.0.5:443", "https://10.0.0.5/token", true},
		{"10.0.0.5:443", "https://10.0.0.5:443/token", true},
		{"10.0.0.5:443", "https://10.0.0.5:8443/token", false},
		{"10.0.0.5:8443", "https://10.0.0.5:8443/token", true},
		{"10.0.0.5:8443", "https://10.0.0.5/token", false},
		{"[2001:db8::5]", "https://[2001:db8::5]:8443/token", true},
		{"[2001:db8::5]:443", "https://[2001:db8::5]/token", true},
		{"[2001:db8::5]:443", "https://[2001:db8::5]:8443/token", false},
		{"10.0.0.50", "https://10.0.0.5/token", false},
	} {
		e, err := New("registry.test", credential.Source{}.Keychain(), Options{TokenRealms: []string{tt.listed}})
		if err != nil {
			t.Fatal(err)
		}
		err = e.checkRealm(tt.realm, false)
		if (err == nil) != tt.want {
			t.Errorf("listed %s: got %v for %s, want it trusted: %t", tt.listed, err, tt.realm, tt.want)
		}
	}
}
