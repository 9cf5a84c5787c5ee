// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-edge/berth/resolver/permission"
)

// Write writes the secret to its file, which nobody but its owner can read, and which takes the place of a former one at once.
// A directory that is missing is made for the owner alone; one that others can write to is refused.
func (s Secret) Write() error {
	dir := filepath.Dir(s.Path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write secret: %w", err)
	}
	if err := permission.Writable(dir); err != nil {
		return fmt.Errorf("write secret: %w", err)
	}
	f, err := os.CreateTemp(dir, ".secret-*") // mode 0600, and never a file that is there
	if err != nil {
		return fmt.Errorf("write secret: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // after the rename there is none
	_, err = f.WriteString(s.Value.Reveal() + "\n")
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), s.Path)
	}
	if err != nil {
		return fmt.Errorf("write secret: %w", err)
	}
	return nil
}
