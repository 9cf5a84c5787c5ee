// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package strict

import (
	"bytes"
	"unicode/utf8"
)

// plain returns text without its byte order mark. It is false after a problem was noted: it is text in another encoding, or none.
func (d *document) plain(text []byte) (_ []byte, ok bool) {
	mistake := func(at int, what string) {
		*d.problems = append(*d.problems, Problem{File: d.Name, Line: bytes.Count(text[:at], []byte("\n")) + 1, Text: what})
	}
	if isUTF16(text) {
		d.problem("", "is UTF-16 text; save it as UTF-8")
		return nil, false
	}
	if at := bytes.IndexByte(text, 0); at >= 0 {
		mistake(at, "is not text: it has a zero byte")
		return nil, false
	}
	for at := 0; at < len(text); {
		r, size := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && size == 1 {
			mistake(at, "is not UTF-8 text")
			return nil, false
		}
		at += size
	}
	return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), true
}

// isUTF16 reports whether text is UTF-16, which an editor of Windows may write: it has a byte order mark, or begins with ASCII.
func isUTF16(text []byte) bool {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return true
	}
	return len(text) > 1 && (text[0] == 0) != (text[1] == 0)
}
