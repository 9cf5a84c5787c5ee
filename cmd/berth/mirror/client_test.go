// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"errors"
	"net/http"
	"net/url"
	"testing"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// TestStay has a registry name where a blob is to be sent, in ways that must not lead to another host (SEC-01).
func TestStay(t *testing.T) {
	const own = "https://reg.test/v2/app/blobs/uploads/"
	for location, want := range map[string]string{
		"/v2/app/blobs/uploads/1":                        own + "1",
		"http://reg.test/v2/app/blobs/uploads/1?state=2": own + "1?state=2",
		"http://10.0.0.1:5000/v2/app/blobs/uploads/1":    own + "1",
		"https://user@reg.test/v2/app/blobs/uploads/1":   own + "1",
		"https://reg.test//other.test/upload":            "https://reg.test//other.test/upload",
		"https://other.test/upload":                      "",
	} {
		at, err := url.Parse(own)
		if err != nil {
			t.Fatal(err)
		}
		resp := &http.Response{StatusCode: http.StatusAccepted, Header: http.Header{"Location": {location}}, Request: &http.Request{URL: at}}
		err = stay(resp)
		if want == "" {
			if !errors.Is(err, errElsewhere) {
				t.Errorf("%s: got %v, want it refused", location, err)
			}
			continue
		}
		if got, unparsed := resp.Location(); err != nil || unparsed != nil || got.String() != want {
			t.Errorf("%s: got %v %v, want %s", location, got, err, want)
		}
	}
}

// A registry that nobody was at is asked again: a copy that fails is tried again a moment later, and it may be there by then.
func TestRegistryComesBack(t *testing.T) {
	authority := registrytest.NewAuthority(t)
	image := registrytest.NewImage("back", 1<<10)
	server := registrytest.Serve(t, authority.Server(t), registrytest.Registry{Image: image})
	server.Close()
	e, err := endpoint.New(server.Host, credential.Source{}.Keychain(), endpoint.Options{Certificates: []string{authority.PEM}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.CloseIdle)
	c, err := newClient(e, newContact(), "repository:app:pull")
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+server.Host+"/v2/app/manifests/1", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := ask(); err == nil {
		t.Fatal("got an answer of a registry that is gone")
	}
	registrytest.ServeOn(t, server.Host, authority.Server(t), registrytest.Registry{Image: image})
	if err := ask(); err != nil {
		t.Error(err)
	}
}
