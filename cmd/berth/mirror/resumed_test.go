// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// A blob is read to its end however its connection ends, whether or not it can be asked for from the middle; as long as there is
// more of it, and as long as the registry may have it.
func TestResumed(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789"), 100)
	desc := ocispec.Descriptor{Digest: digest.FromBytes(text), Size: int64(len(text))}
	reset := errors.New("connection reset")
	for _, tt := range []struct {
		name string
		body func(fetch int) io.ReadCloser
		gone map[int]error // why a fetch fails
		most int           // fetches
		want error
	}{
		{"ends early", func(fetch int) io.ReadCloser { return io.NopCloser(bytes.NewReader(text[:500*fetch])) }, nil, attempts, nil},
		{"ends often", func(fetch int) io.ReadCloser { return io.NopCloser(bytes.NewReader(text[:100*fetch])) }, nil, 10, nil},
		{"cannot be asked for at once", func(fetch int) io.ReadCloser { return io.NopCloser(bytes.NewReader(text[:min(400*fetch, len(text))])) }, map[int]error{2: reset}, attempts, nil},
		{"is gone", func(int) io.ReadCloser { return io.NopCloser(bytes.NewReader(text[:500])) }, map[int]error{2: errdef.ErrNotFound}, 2, errdef.ErrNotFound},
		{"ends with an error", func(fetch int) io.ReadCloser {
			return io.NopCloser(io.MultiReader(bytes.NewReader(text[:500*fetch]), iotest.ErrReader(reset)))
		}, nil, attempts, nil},
		{"seeks", func(fetch int) io.ReadCloser {
			if fetch == 1 {
				return io.NopCloser(bytes.NewReader(text[:700]))
			}
			return seekable{bytes.NewReader(text)}
		}, nil, attempts, nil},
		{"no more of it", func(int) io.ReadCloser { return io.NopCloser(bytes.NewReader(text[:500])) }, nil, attempts, io.ErrUnexpectedEOF},
	} {
		synctest.Test(t, func(t *testing.T) {
			fetches := 1
			from := content.FetcherFunc(func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
				fetches++
				if err := tt.gone[fetches]; err != nil {
					return nil, err
				}
				return tt.body(fetches), nil
			})
			got, err := io.ReadAll(&resumed{ctx: t.Context(), from: from, desc: desc, body: tt.body(1)})
			if !errors.Is(err, tt.want) || err == nil && !bytes.Equal(got, text) {
				t.Errorf("%s: got %d bytes, %v, want %d, %v", tt.name, len(got), err, len(text), tt.want)
			}
			if fetches > tt.most {
				t.Errorf("%s: got it asked for %d times", tt.name, fetches)
			}
		})
	}
}

// seekable is read from the middle only, as one that answers a range.
type seekable struct{ *bytes.Reader }

func (seekable) Close() error { return nil }
