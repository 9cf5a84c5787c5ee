// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package strict

// closest returns the key that is at most two edits away from key, if any.
func closest(key string, keys []string) string {
	best, distance := "", 3
	for _, k := range keys {
		if d := edits(key, k); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance of two keys.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// Similar reports whether a name is likely a misspelling of another.
func Similar(name, other string) bool { return closest(name, []string{other}) != "" }
