// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
)

const digestHeader = "Docker-Content-Digest"

// described says of each manifest how long it is and, where only that was asked, what digest it has. A registry may leave out
// either, and a proxy that compresses does not know the length; nodes read the manifest then, and so is it read here. One that is asked for
// as an index names it is what the index says, whatever the registry calls it, to nodes too.
type described struct{ http.RoundTripper }

// errEndsEarly is of a connection that is lost within a manifest.
var errEndsEarly = errors.New("manifest ends early")

// RoundTrip implements [http.RoundTripper].
func (d described) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.RoundTripper.RoundTrip(req)
	head := req.Method == http.MethodHead
	if err != nil || !isManifest(resp, req) || head && resp.ContentLength >= 0 && resp.Header.Get(digestHeader) != "" {
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
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errEndsEarly, err)
	case int64(len(text)) > docker.MaxManifestSize:
		return nil, fmt.Errorf("manifest is larger than %d bytes", docker.MaxManifestSize)
	}
	resp.ContentLength, resp.Body = int64(len(text)), io.NopCloser(bytes.NewReader(text))
	if head {
		resp.Header.Set(digestHeader, digest.FromBytes(text).String())
		resp.Body = http.NoBody
	}
	if accept := req.Header.Get("Accept"); accept != "" && !strings.Contains(accept, ",") {
		resp.Header.Set("Content-Type", accept)
	}
	return resp, nil
}

func isManifest(resp *http.Response, req *http.Request) bool {
	return resp.StatusCode == http.StatusOK && asksFor(req, "manifests")
}
