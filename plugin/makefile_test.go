// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"os/exec"
	"regexp"
	"testing"

	"golang.org/x/mod/semver"
)

// TestVersionIsSemantic builds nothing: it reads the version that make would build in. A client such as nerdctl takes a
// containerd whose version does not parse for one without a transfer service, and pulls past it.
func TestVersionIsSemantic(t *testing.T) {
	for in, want := range map[string]string{
		"v0.1.0-3-g47ce4b2-dirty": "v0.1.0-3-g47ce4b2-dirty",
		"1.0+dfsg1":               "1.0-dfsg1",
		"1.0~rc1":                 "1.0-rc1",
		"release/1.0_1":           "release-1.0-1",
	} {
		out, err := exec.CommandContext(t.Context(), "make", "-C", "..", "-n", "build", "VERSION="+in).CombinedOutput()
		if err != nil {
			t.Fatalf("make -n build: %v\n%s", err, out)
		}
		found := regexp.MustCompile(`/version\.Version=(\S+)`).FindSubmatch(out)
		if found == nil {
			t.Fatalf("make -n build: got no version\n%s", out)
		}
		got := string(found[1])
		if !semver.IsValid(got) || semver.Build(got) != "+berth."+want {
			t.Errorf("VERSION=%s: got %s, want a semantic version that ends in +berth.%s", in, got, want)
		}
	}
}
