// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Registry is where tests push: *registry.Registry is one.
type Registry interface {
	PushURL() string // scheme and address, where no authentication is asked for
}

// Push pushes the image and everything below it as "repository:tag". It fails tb if it cannot.
func (img *Image) Push(tb testing.TB, r Registry, ref string) {
	tb.Helper()
	if err := img.PushTo(tb.Context(), Remote{URL: r.PushURL()}, ref); err != nil {
		tb.Fatal(err)
	}
}

// Remote is a registry that is reached as any client would reach it.
type Remote struct {
	URL      string       // scheme and address
	Client   *http.Client // nil for the default one
	Username string       // for basic authentication; "" for none
	Password string
}

// PushTo pushes the image and everything below it as "repository:tag".
func (img *Image) PushTo(ctx context.Context, to Remote, ref string) error {
	repo, tag, ok := strings.Cut(ref, ":")
	if !ok {
		return fmt.Errorf("push %s: no tag", ref)
	}
	if to.Client == nil {
		to.Client = http.DefaultClient
	}
	if err := img.push(ctx, to, repo, tag); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

func (img *Image) push(ctx context.Context, to Remote, repo, tag string) error {
	for _, one := range img.Images {
		if err := one.push(ctx, to, repo, one.Digest.String()); err != nil {
			return err
		}
	}
	if img.config != nil {
		if err := to.blob(ctx, repo, img.ConfigDigest, img.config); err != nil {
			return err
		}
	}
	for _, l := range img.Layers {
		if err := to.blob(ctx, repo, l.Digest, l.Blob); err != nil {
			return err
		}
	}
	_, err := to.do(ctx, http.MethodPut, to.URL+"/v2/"+repo+"/manifests/"+tag, img.MediaType, img.Content)
	return err
}

// blob uploads data unless the repository has it.
func (to Remote) blob(ctx context.Context, repo string, dgst digest.Digest, data []byte) error {
	base := to.URL + "/v2/" + repo + "/blobs/"
	if _, err := to.do(ctx, http.MethodHead, base+dgst.String(), "", nil); err == nil {
		return nil
	}
	loc, err := to.do(ctx, http.MethodPost, base+"uploads/", "", nil)
	if err != nil {
		return err
	}
	query := loc.Query()
	query.Set("digest", dgst.String())
	loc.RawQuery = query.Encode()
	_, err = to.do(ctx, http.MethodPut, loc.String(), "application/octet-stream", data)
	return err
}

// do makes a request, reads its answer to the end, and returns where that points to. A status that is not of success is
// an error.
func (to Remote) do(ctx context.Context, method, address, contentType string, body []byte) (location *url.URL, err error) {
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if to.Username != "" {
		req.SetBasicAuth(to.Username, to.Password)
	}
	resp, err := to.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode/100 != 2 {
		u, _ := url.Parse(address)
		return nil, fmt.Errorf("%s %s: %s: %s", method, u.Path, resp.Status, text)
	}
	if resp.Header.Get("Location") == "" {
		return nil, nil
	}
	return resp.Location()
}
