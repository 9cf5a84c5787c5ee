// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"os"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// oldest is the first containerd with the fixes that Berth relies on: CVE-2026-95839, GHSA-8647-2jxj-p2rc and
// GHSA-hc94-p972-ch66 bound what a registry may send.
const oldest = "v2.4.2"

func TestContainerdIsNotTooOld(t *testing.T) {
	const path = "github.com/containerd/containerd/v2"
	text, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, require := range file.Require {
		if require.Mod.Path == path {
			got = require.Mod.Version
		}
	}
	if semver.Compare(got, oldest) < 0 {
		t.Errorf("got %s %s, want %s or later", path, got, oldest)
	}
	for _, replace := range file.Replace {
		if replace.Old.Path == path {
			t.Errorf("got %s replaced by %s, want it as released", path, replace.New)
		}
	}
}
