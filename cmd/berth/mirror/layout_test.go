// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSweep sweeps for another run while something is made: before it is open, before it is locked, and after that. What is
// returned is there, and stays.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	const prefix = "left-"
	try := 0
	f, err := locked(func() (*os.File, error) {
		temp, err := os.MkdirTemp(dir, prefix)
		if err != nil {
			return nil, err
		}
		if try++; try == 1 {
			sweep(dir, prefix)
		}
		f, err := os.Open(temp)
		if try == 2 {
			sweep(dir, prefix)
		}
		return f, err
	})
	if err != nil {
		t.Fatal(err)
	}
	sweep(dir, prefix)
	if left, _ := filepath.Glob(filepath.Join(dir, prefix+"*")); len(left) != 1 || left[0] != f.Name() {
		t.Errorf("got %q, want %s", left, f.Name())
	}
	f.Close()
	sweep(dir, prefix)
	if left, _ := filepath.Glob(filepath.Join(dir, prefix+"*")); len(left) > 0 {
		t.Errorf("got %q, want nothing left of a run that was killed", left)
	}
}
