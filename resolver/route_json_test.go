// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"encoding/json"
	"testing"
)

// The schema is what scripts read: exactly these keys, and a list of targets even where there are none.
func TestRouteJSON(t *testing.T) {
	routes := routesOf(t, `
[[registries]]
domain = "r.io/p"
username = "u"
password = "hunter2"
insecure = true
[[registries]]
domain = "helped.io"
credential_helper = "ecr-login"
[[registries]]
domain = "provided.io"
credential_provider = { path = "/opt/acr-provider" }
[[registries]]
domain = "filed.io"
docker_config = "/root/.docker/config.json"
[[rules]]
from = "quay.io"
to = ["r.io/p/q", "source"]
[[rules]]
from = "quay.io/bad"
deny = true
`)
	for ref, want := range map[string]string{
		"nginx": `{"ref":"nginx","named":"docker.io/library/nginx:latest","rule":"*","targets":[` +
			`{"kind":"registry","pull":"r.io/p/docker.io/library/nginx:latest","registry":"r.io/p","credential":"password","tls":"insecure"}],"error":""}`,
		"quay.io/a:1": `{"ref":"quay.io/a:1","named":"quay.io/a:1","rule":"quay.io","targets":[` +
			`{"kind":"registry","pull":"r.io/p/q/a:1","registry":"r.io/p","credential":"password","tls":"insecure"},` +
			`{"kind":"source","pull":"quay.io/a:1","registry":"","credential":"client","tls":"system"}],"error":""}`,
		"r.io/p/a:1": `{"ref":"r.io/p/a:1","named":"r.io/p/a:1","rule":"","targets":[` +
			`{"kind":"source","pull":"r.io/p/a:1","registry":"r.io/p","credential":"password","tls":"insecure"}],"error":""}`,
		"helped.io/a:1": `{"ref":"helped.io/a:1","named":"helped.io/a:1","rule":"","targets":[` +
			`{"kind":"source","pull":"helped.io/a:1","registry":"helped.io","credential":"helper:ecr-login","tls":"system"}],"error":""}`,
		"provided.io/a:1": `{"ref":"provided.io/a:1","named":"provided.io/a:1","rule":"","targets":[` +
			`{"kind":"source","pull":"provided.io/a:1","registry":"provided.io","credential":"helper:acr-provider","tls":"system"}],"error":""}`,
		"filed.io/a:1": `{"ref":"filed.io/a:1","named":"filed.io/a:1","rule":"","targets":[` +
			`{"kind":"source","pull":"filed.io/a:1","registry":"filed.io","credential":"password","tls":"system"}],"error":""}`,
		"quay.io/bad:1": `{"ref":"quay.io/bad:1","named":"quay.io/bad:1","rule":"quay.io/bad","targets":[],` +
			`"error":"quay.io/bad:1 is denied by rule \"quay.io/bad\": permission denied"}`,
		"a/../b": `{"ref":"a/../b","named":"","rule":"","targets":[],` +
			`"error":"parse reference \"a/../b\": invalid reference format: invalid argument"}`,
	} {
		got, err := json.Marshal(routes.Route(t.Context(), ref))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s: got\n%s, want\n%s", ref, got, want)
		}
	}
}
