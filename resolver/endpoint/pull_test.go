// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

const (
	user     = "canary-user"
	password = "canary/pass+word"
	// userpass is "canary-user:canary/pass+word" in base64.
	userpass = "Y2FuYXJ5LXVzZXI6Y2FuYXJ5L3Bhc3Mrd29yZA=="
)

// secrets are what no server but the registry and its token server may ever receive.
var secrets = []string{user, password, userpass, "canary%2Fpass%2Bword", "canary-token", "canary-key", "canary-cookie"}

// keychain is a credential, and how often it was asked for.
type keychain struct {
	cred  credential.Credential
	err   error
	asked atomic.Int64
}

func (k *keychain) Credential(context.Context, string, credential.Credential) (credential.Credential, error) {
	k.asked.Add(1)
	return k.cred, k.err
}

func login() *keychain {
	return &keychain{cred: credential.Credential{Username: user, Password: password}}
}

func newEndpoint(t testing.TB, host string, k credential.Keychain, opts endpoint.Options) *endpoint.Endpoint {
	t.Helper()
	e, err := endpoint.New(host, k, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.CloseIdle)
	return e
}

// trusting is the options of a registry whose certificate a signed.
func trusting(a *registrytest.Authority) endpoint.Options {
	return endpoint.Options{Certificates: []string{a.PEM}}
}

// pull resolves and fetches the image of repository name as containerd does, through containerd's own resolver, with
// headers of an operator, and checks the bytes.
func pull(ctx context.Context, e *endpoint.Endpoint, name string, want registrytest.Image) error {
	ref := e.Host() + "/" + name
	if !strings.Contains(name, ":") {
		ref += ":1"
	}
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts:   e.Hosts(nil),
		Headers: http.Header{"X-Api-Key": {"canary-key"}, "Cookie": {"canary-cookie=1"}},
	})
	_, desc, err := resolver.Resolve(ctx, ref)
	if err != nil {
		return fmt.Errorf("resolve: %w", err)
	}
	fetcher, err := resolver.Fetcher(ctx, ref)
	if err != nil {
		return err
	}
	for _, d := range []ocispec.Descriptor{
		desc,
		registrytest.Descriptor(ocispec.MediaTypeImageConfig, want.Config),
		registrytest.Descriptor(ocispec.MediaTypeImageLayer, want.Layer),
	} {
		if err := fetch(ctx, fetcher, d); err != nil {
			return fmt.Errorf("fetch %s: %w", d.MediaType, err)
		}
	}
	if desc.Digest != want.Digest() {
		return fmt.Errorf("got manifest %s, want %s", desc.Digest, want.Digest())
	}
	return nil
}

var errWrongBytes = errors.New("wrong bytes")

func fetch(ctx context.Context, fetcher remotes.Fetcher, d ocispec.Descriptor) error {
	rc, err := fetcher.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer rc.Close()
	var content bytes.Buffer
	if _, err := io.Copy(&content, rc); err != nil {
		return err
	}
	if got := digest.FromBytes(content.Bytes()); got != d.Digest {
		return fmt.Errorf("%w: got %d of digest %s, want %d of %s", errWrongBytes, content.Len(), got, d.Size, d.Digest)
	}
	return nil
}

// noSecrets reports secrets that a server received which should have none.
func noSecrets(t testing.TB, what string, s *registrytest.Server) {
	t.Helper()
	if got := s.Received(secrets...); len(got) > 0 {
		t.Errorf("%s received %q, want no secret", what, got)
	}
}

// wantError reports an error without one of the texts.
func wantError(t testing.TB, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want one with %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("got error %q, want one with %q", err, text)
		}
	}
}

// only is h for paths that contain part, and next for others.
func only(part string, h http.HandlerFunc, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, part) {
			h(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// first is h for the first n requests whose path contains part, and next for others.
func first(n int64, part string, h http.HandlerFunc, next http.Handler) http.Handler {
	var seen atomic.Int64
	return only(part, func(w http.ResponseWriter, r *http.Request) {
		if seen.Add(1) <= n {
			h(w, r)
			return
		}
		next.ServeHTTP(w, r)
	}, next)
}

// A component of a repository's name may be "manifests": what bounds a manifest is not for the blobs of such a repository.
func TestRepositoryNamedManifests(t *testing.T) {
	t.Parallel()
	image := registrytest.NewImage("manifests", int(docker.MaxManifestSize)+1)
	authority := registrytest.NewAuthority(t)
	server := registrytest.Serve(t, authority.Server(t), registrytest.Registry{Image: image})
	e := newEndpoint(t, server.Host, login(), trusting(authority))
	if err := pull(t.Context(), e, "org/manifests/app", image); err != nil {
		t.Fatal(err)
	}
}
