// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver/credential"
)

// What a request carried is taken out of its answer, also where the credential or the token was replaced meanwhile.
func TestRedactorOfWhatWasSent(t *testing.T) {
	t.Parallel()
	e, err := New("reg.test", credential.Source{}.Keychain(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	basic, bearer := &http.Request{Header: http.Header{}}, &http.Request{Header: http.Header{"Authorization": {"Bearer canary-token"}}}
	basic.SetBasicAuth("canary-user", "canary/pass")
	ofHost := &http.Request{Header: http.Header{}}
	ofHost.SetBasicAuth("reg", "canary/pass")
	for _, tt := range []struct {
		name string
		req  *http.Request
		in   string
		want string
	}{
		{"basic", basic, "canary-user has canary/pass, Y2FuYXJ5LXVzZXI6Y2FuYXJ5L3Bhc3M=, canary%2Fpass", "*** has ***, ***, ***"},
		{"a user who is named as the host is", ofHost, "reg.test: connection refused to reg, who has canary/pass", "reg.test: connection refused to reg, who has ***"},
		{"bearer", bearer, "Bearer canary-token", "Bearer ***"},
		{"address", bearer, "at https://s3.test/x?sig=1", "at https://s3.test/x?***"},
	} {
		if got := e.auth.redactor(tt.req)(tt.in); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A response, as containerd logs it, has no address that a redirect led to, no query, no user and no cookie.
func TestResponseIsPrintable(t *testing.T) {
	t.Parallel()
	parse := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	asked := &http.Request{URL: parse("https://reg.test/v2/app/blobs/x?ns=quay.io"), Header: http.Header{}}
	for _, tt := range []struct{ name, answered, want string }{
		{"itself", "https://reg.test/v2/app/blobs/x?ns=quay.io", "https://reg.test/v2/app/blobs/x"},
		{"itself, with a user", "https://u:p@reg.test/v2/app/blobs/x", "https://reg.test/v2/app/blobs/x"},
		{"another path", "https://reg.test/signed/canary?sig=1", "https://reg.test"},
		{"another host", "https://s3.test/v2/app/blobs/x?sig=1", "https://s3.test"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := &http.Response{
				StatusCode: http.StatusOK, Request: &http.Request{URL: parse(tt.answered), Header: http.Header{}}, Body: http.NoBody,
				Header: http.Header{"Set-Cookie": {"s=canary"}, "Location": {"/signed/canary"}, "Link": {"</signed/canary>"}, "X-Echo": {"a canary"}, "Content-Type": {"canary"}},
			}
			redactResponse(resp, asked, func(text string) string { return strings.ReplaceAll(text, "canary", "***") })
			if got := resp.Request.URL.String(); got != tt.want {
				t.Errorf("got it answered at %s, want %s", got, tt.want)
			}
			if got, want := fmt.Sprint(resp.Header), "map[Content-Type:[canary] X-Echo:[a ***]]"; got != want {
				t.Errorf("got header %s, want %s", got, want)
			}
		})
	}
}

// What an error says is read, and rid of secrets, where something before the registry compressed it: gzip is offered for blobs.
func TestCompressedError(t *testing.T) {
	t.Parallel()
	packed := func(text string) string {
		var b strings.Builder
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, text)
		_ = w.Close()
		return b.String()
	}
	whole := packed("denied to canary")
	for _, tt := range []struct{ name, in, encoding, want string }{
		{"plain", "denied to canary", "", "denied to ***"},
		{"gzip", whole, "GZip", "denied to ***"},
		{"gzip that is cut off", whole[:len(whole)-8], "gzip", "denied to ***"},
		{"no gzip", "denied to canary", "gzip", ""},
		{"a bomb", packed(strings.Repeat("x", 2*maxErrorBody)), "gzip", strings.Repeat("x", maxErrorBody)},
	} {
		asked := httptest.NewRequest(http.MethodGet, "https://reg.test/v2/app/blobs/x", nil)
		resp := &http.Response{
			StatusCode: http.StatusForbidden, Request: asked, Body: io.NopCloser(strings.NewReader(tt.in)),
			Header: http.Header{"Content-Encoding": {tt.encoding}},
		}
		redactResponse(resp, asked, func(text string) string { return strings.ReplaceAll(text, "canary", "***") })
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != tt.want {
			t.Errorf("%s: got %.100q, %v, want %.100q", tt.name, got, err, tt.want)
		}
	}
}

// A list goes on where the registry says, with its query, and whoever's name is a part of its path.
func TestLinkOfAList(t *testing.T) {
	t.Parallel()
	const link = `<https://reg.test/v2/canary/app/referrers/sha256:x?last=y&n=1>; rel="next"`
	asked := httptest.NewRequest(http.MethodGet, "https://reg.test/v2/canary/app/referrers/sha256:x", nil)
	resp := &http.Response{StatusCode: http.StatusOK, Request: asked, Body: http.NoBody, Header: http.Header{"Link": {link}}}
	redactResponse(resp, asked, func(text string) string { return RedactQueries(strings.ReplaceAll(text, "canary", "***")) })
	if got := resp.Header.Get("Link"); got != link {
		t.Errorf("got %s, want %s", got, link)
	}
}

// An error that is redacted is still of its kind.
func TestRedactedErrorKeepsItsKind(t *testing.T) {
	t.Parallel()
	redact := func(text string) string { return strings.ReplaceAll(text, "canary", "***") }
	for _, tt := range []struct {
		name  string
		in    error
		is    error
		cause Cause
	}{
		{"of ours", &Error{Cause: TimedOut, Text: "canary stalled", err: context.DeadlineExceeded}, context.DeadlineExceeded, TimedOut},
		{"another", fmt.Errorf("canary: %w", io.ErrUnexpectedEOF), io.ErrUnexpectedEOF, BadResponse},
	} {
		got := redactError(tt.in, redact)
		var own *Error
		if !errors.Is(got, tt.is) || !errors.As(got, &own) || own.Cause != tt.cause || strings.Contains(got.Error(), "canary") {
			t.Errorf("%s: got %#v, want a redacted error of kind %v and cause %s", tt.name, got, tt.is, tt.cause)
		}
	}
	if plain := errors.New("nothing secret"); !errors.Is(redactError(plain, redact), plain) {
		t.Error("got an error without a secret changed")
	}
}

// A body of exactly the limit is whole; one byte more is an error.
func TestBounded(t *testing.T) {
	t.Parallel()
	for size, whole := range map[int]bool{0: true, 9: true, 10: true, 11: false, 1000: false} {
		for _, chunk := range []int{1, 3, 512} {
			r := bounded(io.NopCloser(strings.NewReader(strings.Repeat("x", size))), "text", 10)
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, chunk))
			if err == nil != whole || n > 10 || whole && n != int64(size) {
				t.Errorf("%d bytes by %d: got %d, %v, want whole %t", size, chunk, n, err, whole)
			}
		}
	}
}
