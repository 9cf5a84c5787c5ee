// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"os"
	"path/filepath"
	"testing"
)

// H10, A7: what was refused since others could write to a directory above it is in force once they cannot, without a restart.
func TestDirectoryIsMadeSafe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "deep")
	if err := os.Mkdir(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, deep+"/a.toml", to("new.io"))
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	r, ctx, logged := newResolver(t, deep+"/*.toml")
	if got := rewritten(ctx, r); got != "" {
		t.Fatalf("got %s while others can write to %s, want a refusal", got, dir)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := rewritten(ctx, r); got != "new.io/a:latest" {
		t.Errorf("got %q after the mend, want the rule; log:\n%s", got, logged)
	}
}
