// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-edge/berth/resolver/config"
)

// SEC-25, T9: among the system's certificates a file that is written in place is seen, as is one elsewhere that a link leads to,
// and neither is a file that is as it was. None of them is looked at before they are needed.
func TestRootsWrittenInPlace(t *testing.T) {
	certs, elsewhere := t.TempDir(), t.TempDir()
	inPlace, linked := filepath.Join(certs, "a.pem"), filepath.Join(elsewhere, "b.pem")
	for _, file := range []string{inPlace, linked} {
		if err := os.WriteFile(file, []byte("# old\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(linked, filepath.Join(certs, "b.pem")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_DIR", certs)
	t.Setenv("SSL_CERT_FILE", filepath.Join(certs, "none"))
	before, err := config.Load(stanza(nil))
	if err != nil {
		t.Fatal(err)
	}
	reload := func() config.Loaded {
		t.Helper()
		after, err := config.Reload(stanza(nil), before)
		if err != nil {
			t.Fatal(err)
		}
		return after
	}
	if err := os.WriteFile(inPlace, []byte("# old, not read\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if before.Inputs.Look(); before.Inputs.Changed() || reload().Roots != before.Roots {
		t.Error("got a change of what was not read")
	}
	before.Roots.Pool()
	if before.Inputs.Look(); before.Inputs.Changed() || reload().Roots != before.Roots {
		t.Error("got a change where there is none")
	}
	for _, file := range []string{inPlace, linked} {
		if err := os.WriteFile(file, []byte("# of another length\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if before.Inputs.Look(); !before.Inputs.Changed() {
			t.Errorf("got no change of %s", file)
		}
		after := reload()
		if after.Roots == before.Roots {
			t.Errorf("got the certificates of before after a change of %s", file)
		}
		after.Roots.Pool()
		if after.Inputs.Look(); after.Inputs.Changed() {
			t.Error("got a change that was read")
		}
		before = after
	}
}
