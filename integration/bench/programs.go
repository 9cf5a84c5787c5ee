// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-edge/berth/integration/binaries"
)

// sameFlags are the programs of the sides, built in the same way: what differs is their source.
func sameFlags(tb testing.TB) [sides]string {
	tb.Helper()
	s := binaries.Path(tb, binaries.Stock)
	return [sides]string{binaries.Path(tb, binaries.Containerd), s, s}
}

// released are the programs as they are installed: ours of this Makefile, and stock's with the flags of containerd's own Makefile
// and Makefile.linux, by which its releases are made.
func released(tb testing.TB) [sides]string {
	tb.Helper()
	dir := tb.TempDir()
	run(tb, nil, "make", "-C", binaries.Root(tb), "build", "BIN="+dir)
	s := filepath.Join(dir, "stock")
	if err := binaries.Build(tb.Context(), binaries.Stock, s, "-buildmode=pie", "-tags", "urfave_cli_no_docs", "-ldflags", "-s -w"); err != nil {
		tb.Fatal(err)
	}
	return [sides]string{filepath.Join(dir, "containerd"), s, s}
}

// copied returns a copy of a program: how much of a binary is resident depends on how its pages came into the cache, and
// a linker's output differs in that from a copy by megabytes.
func copied(tb testing.TB, program string) string {
	tb.Helper()
	from, err := os.Open(program)
	if err != nil {
		tb.Fatal(err)
	}
	defer from.Close()
	path := filepath.Join(tb.TempDir(), "containerd")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Close()); err != nil {
		tb.Fatal(err)
	}
	return path
}
