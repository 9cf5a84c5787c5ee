// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/berth-edge/berth/integration/binaries"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// TestSessions runs the sessions of testdata, of the commands that go to registries, with their exact output.
func TestSessions(t *testing.T) {
	bin := filepath.Dir(binaries.Path(t, binaries.Berth))
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// registry NAME [DELAY] starts one that ann may use, and sets $NAME to its address. The delay is of each round trip.
			"registry": func(ts *testscript.TestScript, _ bool, args []string) {
				opts := registry.Options{Users: ann}
				if len(args) > 1 {
					delay, err := time.ParseDuration(args[1])
					ts.Check(err)
					opts.Delay = delay
				}
				r := registry.Start(t, opts)
				ts.Setenv(args[0], r.Host())
				ts.Setenv(args[0]+"_push", r.PushURL())
				ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pem"), r.CA.PEM(), 0o600))
			},
			// push REGISTRY NAME:TAG DIGEST pushes an image, and sets $DIGEST.
			"push": func(ts *testscript.TestScript, _ bool, args []string) {
				img := image.Small("linux/amd64", 3)
				ts.Check(img.PushTo(t.Context(), image.Remote{URL: ts.Getenv(args[0] + "_push")}, args[1]))
				ts.Setenv(args[2], img.Digest.String())
			},
			// fill FILE… puts variables in.
			"fill": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, name := range args {
					ts.Check(os.WriteFile(ts.MkAbs(name), []byte(os.Expand(ts.ReadFile(name), ts.Getenv)), 0o600))
				}
			},
			// exit STATUS ARG… runs berth.
			"exit": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec("berth", args[1:]...)
				got := 0
				if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
					got = exit.ExitCode()
				}
				if strconv.Itoa(got) != args[0] {
					ts.Fatalf("berth %q: got exit status %d (%v), want %s", args[1:], got, err, args[0])
				}
			},
			// schema NAME validates the output of the last command, by docs/schema.
			"schema": func(ts *testscript.TestScript, _ bool, args []string) {
				schema, err := jsonschema.Compile("../docs/schema/" + args[0] + ".json")
				ts.Check(err)
				var output any
				ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &output))
				ts.Check(schema.Validate(output))
			},
		},
	})
}
