// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
)

// The sides of a comparison.
const (
	ours = iota
	stock
	control
	sides
)

var sideNames = [sides]string{"berth", "stock", "control"}

// samples are the measurements of one quantity, by side.
type samples [sides][]float64

// table prints a row for each comparison.
type table struct{ w io.Writer }

func newTable(w io.Writer) *table {
	t := &table{w}
	fmt.Fprintf(w, "%-44s %11s %14s   %s\n", "", "berth/stock", "control/stock", "medians: berth, stock, control")
	return t
}

// row prints the ratios of the medians, and beside that of the control how far single rounds of it lay apart.
func (t *table) row(what, unit string, s samples) {
	low, high := spread(s[control], s[stock])
	fmt.Fprintf(t.w, "%-44s %11.2f %5.2f %.2f–%.2f   %.4g %.4g %.4g %s\n", what,
		median(s[ours])/median(s[stock]), median(s[control])/median(s[stock]), low, high,
		median(s[ours]), median(s[stock]), median(s[control]), unit)
}

// note prints a line below a row.
func (t *table) note(format string, args ...any) { fmt.Fprintf(t.w, "    "+format+"\n", args...) }

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// spread is the lowest and the highest ratio of a round.
func spread(a, b []float64) (low, high float64) {
	low = math.Inf(1)
	for i := range a {
		low, high = min(low, a[i]/b[i]), max(high, a[i]/b[i])
	}
	return low, high
}

// abba returns the order of the sides in a round: every second round goes backwards.
func abba(round int) []int {
	order := []int{ours, stock, control}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}
