// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// readJSON returns the content of f, which must not be larger than an index, a manifest or a config may be.
func (b *Bundle) readJSON(ctx context.Context, f *file) ([]byte, error) {
	switch {
	case f.unusable != "":
		return nil, fmt.Errorf("%s %s", f.name, f.unusable)
	case f.size > maxJSON:
		return nil, fmt.Errorf("%s is larger than %d MiB", f.name, maxJSON>>20)
	case f.size == 0:
		return nil, fmt.Errorf("%s is empty", f.name)
	}
	b.small[f] = true
	r, err := b.files.open(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.name, err)
	}
	defer r.Close()
	data := make([]byte, f.size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.name, err)
	}
	return data, nil
}

// parseJSON decodes the content of the file of that name.
func parseJSON(name string, data []byte, into any) error {
	err := json.Unmarshal(data, into)
	if err == nil {
		return nil
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%s: invalid JSON at byte %d: %w", name, syntax.Offset, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// Lists are decoded element by element and counted, since a few bytes of JSON become much more in memory.
type (
	manifests  []descriptor
	layers     []descriptor
	layerNames []string
	diffIDs    []digest.Digest
	tags       []string
	features   []string
)

func (l *manifests) UnmarshalJSON(data []byte) error {
	return decode(l, data, maxManifests, "manifests")
}
func (l *layers) UnmarshalJSON(data []byte) error { return decode(l, data, maxLayers, "layers") }
func (l *layerNames) UnmarshalJSON(data []byte) error {
	return decode(l, data, maxLayers, "layers")
}
func (l *diffIDs) UnmarshalJSON(data []byte) error  { return decode(l, data, maxLayers, "layers") }
func (l *tags) UnmarshalJSON(data []byte) error     { return decode(l, data, maxManifests, "tags") }
func (l *features) UnmarshalJSON(data []byte) error { return decode(l, data, maxFeatures, "features") }

func decode[L ~[]T, T any](l *L, data []byte, limit int, what string) error {
	*l = nil
	err := eachElement(data, func(element []byte) error {
		if len(*l) == limit {
			return fmt.Errorf("too many %s (max %d)", what, limit)
		}
		var v T
		if err := json.Unmarshal(element, &v); err != nil {
			return err
		}
		*l = append(*l, v)
		return nil
	})
	if errors.Is(err, errNoList) {
		return fmt.Errorf("%s %w", what, err)
	}
	return err
}

// present is whether a key is there at all, with whatever value.
type present bool

func (p *present) UnmarshalJSON([]byte) error {
	*p = true
	return nil
}

var errNoList = errors.New("must be a list")

// eachElement calls fn with each element of an array, which must be valid JSON. Nothing is copied. null is no element.
func eachElement(data []byte, fn func([]byte) error) error {
	data = bytes.TrimSpace(data)
	if bytes.Equal(data, []byte("null")) {
		return nil
	}
	if len(data) < 2 || data[0] != '[' {
		return errNoList
	}
	data = data[1 : len(data)-1]
	depth, start := 0, 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case ',':
			if depth == 0 {
				if err := fn(data[start:i]); err != nil {
					return err
				}
				start = i + 1
			}
		}
	}
	if last := data[start:]; len(bytes.TrimSpace(last)) > 0 {
		return fn(last)
	}
	return nil
}
