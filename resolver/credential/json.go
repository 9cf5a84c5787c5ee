// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// member is one key of a JSON object, and its value.
type member struct {
	key   string
	value json.RawMessage
}

// members returns those of a JSON object, in order. Unlike package json it does not let the last of two equal keys win, and
// its errors quote nothing.
func members(data []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("is not a JSON object")
	}
	var list []member
	for d.More() {
		var m member
		t, err := d.Token()
		if err != nil {
			return nil, errors.New("is not JSON")
		}
		m.key, _ = t.(string)
		if err := d.Decode(&m.value); err != nil {
			return nil, errors.New("is not JSON")
		}
		list = append(list, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("is not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("has more behind its JSON object")
	}
	return list, nil
}

// fields reads those members of a JSON object that are asked for, each of them once at most; other keys are ignored. Case
// does not count, as in package json. A null is left out.
func fields(data []byte, to map[string]func(json.RawMessage) error) error {
	list, err := members(data)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, m := range list {
		for key, read := range to {
			if !strings.EqualFold(key, m.key) {
				continue
			}
			if seen[key] {
				return fmt.Errorf("%s: is given twice", key)
			}
			seen[key] = true
			if string(m.value) == "null" {
				continue
			}
			if err := read(m.value); err != nil {
				return fmt.Errorf("%s%w", key, under(err))
			}
		}
	}
	return nil
}

// under writes the key of an error behind the one above it.
func under(err error) error {
	if text := err.Error(); strings.HasPrefix(text, "[") {
		return err
	}
	return fmt.Errorf(": %w", err)
}

// text reads a JSON text.
func text[T ~string](to *T) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return errors.New("is not text")
		}
		*to = T(s)
		return nil
	}
}
