// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"strings"
	"testing"
)

// TestCopyRefused copies what has no route, since a rule denies it or it is no reference: an error, and not skipped as what has no
// place to be put into.
func TestCopyRefused(t *testing.T) {
	m := mirrorOf(t, "[[registries]]\ndomain = \"registry.invalid\"\n[[rules]]\nfrom = \"quay.io\"\ndeny = true\n")
	refs := []string{"quay.io/app:1", "quay.io/APP:1"}
	for i, c := range m.Copy(t.Context(), refs, CopyOptions{}, nil) {
		if c.Err == nil || !strings.Contains(c.Err.Error(), refs[i]) {
			t.Errorf("%s: got %v, want an error that names it", refs[i], c.Err)
		}
	}
}
