// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package cloudconfig_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
)

// Whatever a cloud-config holds, it is a configuration that makes routes, or problems that name the file, and never panics.
func FuzzCloudConfig(f *testing.F) {
	for _, shape := range shapes {
		f.Add([]byte(shape.yaml))
	}
	for _, text := range []string{"stylus: ***", one("username: u", "password: &x *x"), "stylus: {<<: [*a]}", "stylus: &a {externalRegistries: *a}", "? [a]\n: b", "\xff\xfe", "mirrors: {}"} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, fmt.Sprintf("%d.yaml", os.Getpid()))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		loaded, err := config.LoadFile(path)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, path+":") {
					t.Errorf("got %q of %q, want a line that begins with the file", line, text)
				}
			}
			return
		}
		routes, err := resolver.NewRoutes(loaded.Config)
		if err != nil {
			t.Fatal(err)
		}
		routes.Route(t.Context(), "quay.io/a/b:1")
	})
}
