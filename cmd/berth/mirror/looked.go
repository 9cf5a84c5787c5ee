// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"net/http"
)

// looked has GET answer what is there where a registry does not know HEAD, which nodes do without. Of a blob the first byte is asked
// for, and nobody needs its length.
type looked struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (l looked) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(req)
	if err != nil || req.Method != http.MethodHead {
		return resp, err
	}
	blob := asksFor(req, "blobs")
	if resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented {
		drain(resp)
		get := req.Clone(req.Context())
		get.Method = http.MethodGet
		if blob {
			get.Header.Set("Range", "bytes=0-0")
		}
		if resp, err = l.RoundTripper.RoundTrip(get); err != nil {
			return nil, err
		}
		drain(resp)
		resp.Body = http.NoBody
		switch resp.StatusCode {
		case http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable: // one byte, or none
			resp.StatusCode = http.StatusOK
		}
	}
	if blob && resp.ContentLength < 0 {
		resp.ContentLength = 0
	}
	return resp, nil
}
