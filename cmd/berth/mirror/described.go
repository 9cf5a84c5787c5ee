// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
)

const digestHeader = "Docker-Content-Digest"

// described says of each manifest how long it is and, where only that was asked, what digest it has. A registry may leave out
// either, and a proxy that compresses does not know the length; nodes read the manifest then, and so is it read here.
type described struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (d described) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.RoundTripper.RoundTrip(req)
	head := req.Method == http.MethodHead
	if err != nil || !isManifest(resp, req) || resp.ContentLength >= 0 && (!head || resp.Header.Get(digestHeader) != "") {
		return resp, err
	}
	if head {
		drain(resp)
		get := req.Clone(req.Context())
		get.Method = http.MethodGet
		if resp, err = d.RoundTripper.RoundTrip(get); err != nil || !isManifest(resp, get) {
			return resp, err
		}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, docker.MaxManifestSize+1))
	if err == nil && int64(len(text)) > docker.MaxManifestSize {
		err = fmt.Errorf("manifest is larger than %d bytes", docker.MaxManifestSize)
	}
	if err != nil {
		return nil, err
	}
	resp.ContentLength, resp.Body = int64(len(text)), io.NopCloser(bytes.NewReader(text))
	if head {
		resp.Header.Set(digestHeader, digest.FromBytes(text).String())
		resp.Body = http.NoBody
	}
	return resp, nil
}

func isManifest(resp *http.Response, req *http.Request) bool {
	return resp.StatusCode == http.StatusOK && strings.HasSuffix(path.Dir(req.URL.Path), "/manifests")
}
