// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layerStream is what containerd unpacks from a layer of a type.
func layerStream(t *testing.T, mediaType string, r io.Reader) diff.StreamProcessor {
	t.Helper()
	p, err := diff.GetProcessor(t.Context(), diff.NewProcessorChain(mediaType, r), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if p.MediaType() != ocispec.MediaTypeImageLayer {
		t.Fatalf("a layer of type %s becomes one of type %s", mediaType, p.MediaType())
	}
	return p
}

func compressed(t *testing.T, data []byte, to func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := to(&out)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(data)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// layerOf returns data that is neither random nor all alike, so that what decompresses it returns pieces of many sizes.
func layerOf(size int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 0, size+1000)
	for len(data) < size {
		data = append(data, bytes.Repeat([]byte{byte(random.IntN(256))}, 1+random.IntN(1000))...)
	}
	return data[:size]
}

func gzipTo(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }
func zstdTo(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }

func TestLayersAreReadInWholeBuffers(t *testing.T) {
	const buffer = 32 << 10
	data := layerOf(20*buffer + 100)
	for name, tt := range map[string]struct {
		mediaType string
		blob      []byte
	}{
		"gzip":                       {ocispec.MediaTypeImageLayerGzip, compressed(t, data, gzipTo)},
		"zstd":                       {ocispec.MediaTypeImageLayerZstd, compressed(t, data, zstdTo)},
		"docker's, maybe compressed": {images.MediaTypeDockerSchema2Layer, data},
	} {
		t.Run(name, func(t *testing.T) {
			layer := layerStream(t, tt.mediaType, iotest.HalfReader(bytes.NewReader(tt.blob)))
			got := make([]byte, 512) // as a header
			if n, err := layer.Read(got); n != len(got) || err != nil {
				t.Fatalf("read %d bytes, %v", n, err)
			}
			buf := make([]byte, buffer)
			for {
				n, err := layer.Read(buf)
				got = append(got, buf[:n]...)
				if n < buffer && len(got) != len(data) {
					t.Errorf("read %d bytes at %d, want all of %d", n, len(got)-n, buffer)
				}
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, data) {
				t.Errorf("read other bytes than the layer has")
			}
		})
	}
}

// A layer that breaks off does not end there.
func TestLayerThatBreaksOff(t *testing.T) {
	data := layerOf(100_000)
	whole := compressed(t, data, gzipTo)
	for _, cut := range []int{len(whole) / 2, len(whole) - 1} {
		layer := layerStream(t, ocispec.MediaTypeImageLayerGzip, bytes.NewReader(whole[:cut]))
		got, err := io.ReadAll(layer)
		if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.HasPrefix(data, got) {
			t.Errorf("cut at %d of %d: read %d bytes, %v; want an unexpected end", cut, len(whole), len(got), err)
		}
	}
}

func TestStreamThatIsNoLayer(t *testing.T) {
	_, err := diff.GetProcessor(t.Context(), diff.NewProcessorChain("application/json", nil), nil)
	if !errors.Is(err, diff.ErrNoProcessor) {
		t.Errorf("got %v, want that there is no processor", err)
	}
}
