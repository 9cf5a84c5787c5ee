// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-edge/berth/integration/image"
)

// grown are the numbers of images that growth is measured with.
var grown = []int{10, 100, 1000}

// benchGrowth measures how the time of a load grows with the number of images, and draws it.
func benchGrowth(tb testing.TB, t *table, rounds int, plot string) {
	all := loadSides(tb)
	var curves [sides][]float64
	for _, n := range grown {
		var images []image.Named
		for i := range n {
			images = append(images, image.Small("linux/amd64", uint64(i+1)).Name(fmt.Sprintf("registry.k8s.io/small/image-%d:v1", i)))
		}
		path := image.WriteFile(tb, filepath.Join(tb.TempDir(), "small.tar"), image.Tar(image.OCI(images)))
		few := rounds
		if n > 100 {
			few = 2 // it takes minutes
		}
		first, again := measureLoads(tb, all, few, path)
		t.row(fmt.Sprintf("OCI archive of %d small images", n), "s", first.wall)
		t.row("  once more, nothing changed", "s", again)
		for i := range curves {
			curves[i] = append(curves[i], median(first.wall[i]))
		}
	}
	for _, s := range all {
		s.Stop(tb)
	}
	if plot == "" {
		return
	}
	if err := os.WriteFile(plot, draw(curves), 0o644); err != nil {
		tb.Fatal(err)
	}
	t.note("drawn as %s", plot)
}

// draw returns an SVG of both sides' seconds over the number of images, with logarithmic axes.
func draw(curves [sides][]float64) []byte {
	const width, height, left, bottom = 640, 400, 70, 60
	low, high := math.Inf(1), 0.0
	for _, i := range []int{ours, stock} {
		for _, v := range curves[i] {
			low, high = min(low, v), max(high, v)
		}
	}
	low, high = math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	x := func(i int) float64 { return left + float64(i)*(width-left-40)/float64(len(grown)-1) }
	y := func(v float64) float64 {
		return 20 + (height-bottom-20)*(1-(math.Log10(v)-low)/(high-low))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	for e := low; e <= high; e++ {
		v := math.Pow(10, e)
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g s</text>`+"\n", left, width-40, y(v), y(v), left-8, y(v)+4, v)
	}
	for i, n := range grown {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(i), height-bottom+20, n)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">images in one bundle</text>`+"\n", width/2, height-15)
	for _, c := range []struct {
		side        int
		name, color string
	}{{ours, "berth load", "#0a6"}, {stock, "ctr image import", "#c33"}} {
		points := ""
		for i, v := range curves[c.side] {
			points += fmt.Sprintf("%.1f,%.1f ", x(i), y(v))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", x(i), y(v), c.color)
		}
		last := curves[c.side][len(curves[c.side])-1]
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%d" y="%.1f" text-anchor="end" fill="%s">%s</text>`+"\n", points, c.color, width-50, y(last)-8, c.color, c.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
