// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/berth-edge/berth/plugin/api"
)

// progress draws one bar for the bytes of a load, on a terminal. Elsewhere it draws nothing.
type progress struct {
	bars *mpb.Progress // nil where there is no terminal
	bar  *mpb.Bar
	last time.Time
}

// newBars returns what draws bars, nil where there is no terminal, if hidden is set, or where the environment asks for a
// terminal without extras (https://no-color.org).
func newBars(w io.Writer, hidden bool) *mpb.Progress {
	if out, ok := w.(*written); ok {
		w = out.Writer
	}
	f, ok := w.(*os.File)
	if hidden || !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return mpb.New(mpb.WithOutput(w), mpb.WithWidth(60))
}

// bytesBar adds a bar of bytes, with their speed and the time that is left.
func bytesBar(bars *mpb.Progress, name string, options ...mpb.BarOption) *mpb.Bar {
	return bars.AddBar(0, append([]mpb.BarOption{
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(named(name), decor.CountersKibiByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.EwmaSpeed(decor.SizeB1024(0), "% .1f", 10), decor.Name(" "), decor.EwmaETA(decor.ET_STYLE_GO, 10)),
	}, options...)...)
}

// behindName is how many columns want what stands behind the name of a bar, and a short bar.
const behindName = 50

// named shows a name, or its end where the line has no room for all of it: there images differ most.
func named(name string) decor.Decorator {
	return decor.Any(func(line decor.Statistics) string {
		if room := max(line.AvailableWidth-behindName, behindName/3); len(name) > room {
			return "…" + name[len(name)-room+1:] + " "
		}
		return name + " "
	})
}

func newProgress(w io.Writer, hidden bool) *progress {
	p := &progress{bars: newBars(w, hidden), last: time.Now()}
	if p.bars != nil {
		p.bar = bytesBar(p.bars, "loading")
	}
	return p
}

// show moves the bar to how the bundles stand. An image that is there, or that failed, counts as read.
func (p *progress) show(bundles []*api.BundleStatus) {
	if p.bars == nil {
		return
	}
	var total, read int64
	for _, b := range bundles {
		for _, i := range b.Images {
			total += i.Size
			if i.State == "waiting" || i.State == "loading" {
				read += min(i.Read, i.Size)
			} else {
				read += i.Size
			}
		}
	}
	p.bar.SetTotal(total, false)
	p.bar.EwmaSetCurrent(read, time.Since(p.last))
	p.last = time.Now()
}

// end takes the bar away.
func (p *progress) end() {
	if p.bars != nil {
		p.bar.Abort(true)
		p.bars.Wait()
		p.bars = nil
	}
}
