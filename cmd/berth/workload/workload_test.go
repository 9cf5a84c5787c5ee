// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package workload_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-edge/berth/cmd/berth/workload"
)

// TestElsewhere notes images that are in no container, and nothing else that is named so.
func TestElsewhere(t *testing.T) {
	const in = `kind: Prometheus
spec:
  image: quay.io/prometheus/prometheus:v3
  containers:
  - {name: sidecar, image: quay.io/side/car:1}
  volumes:
  - rbd: {image: disk}
---
kind: CustomResourceDefinition
spec: {schema: {properties: {image: {type: string, example: quay.io/a:1}}}}
---
kind: ClusterServiceVersion
spec: {relatedImages: [{name: a, image: nginx:1}], icon: {image: logo}, other: {image: "https://example.com/logo.png"}}
`
	found, err := workload.Read([]string{workload.Stdin}, strings.NewReader(in))
	if got, want := printed(found), "quay.io/side/car:1 5\n"; err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if got, want := printed(workload.Found{Images: found.Elsewhere}), "quay.io/prometheus/prometheus:v3 3\nnginx:1 13\n"; got != want {
		t.Errorf("got elsewhere %s, want %s", got, want)
	}
}

// printed is what was found, an image with its lines on a line.
func printed(found workload.Found) string {
	var b strings.Builder
	for _, image := range found.Images {
		b.WriteString(image.Ref)
		for _, place := range image.Places {
			fmt.Fprintf(&b, " %s", strings.TrimPrefix(place.String(), "standard input:"))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestRead(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"pod", "kind: Pod\nspec:\n  containers:\n  - name: a\n    image: nginx:1\n  - {name: b, image: quay.io/a/b:1}\n", "nginx:1 5\nquay.io/a/b:1 6\n"},
		{"every place of a pod template", `apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers: [{image: init:1}]
      containers:
        - image: main:1
        - image: main:1
      ephemeralContainers:
        - image: "debug:1"
      volumes:
        - name: model
          image:
            reference: quay.io/models/m@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
        - name: config
          configMap: {name: c}
        - name: rbd
          rbd: {image: foo}
`, "init:1 6\nmain:1 8 9\ndebug:1 11\nquay.io/models/m@sha256:" + strings.Repeat("a", 64) + " 15\n"},
		{"a kind nobody heard of", "kind: Rollout\nspec: {jobs: [{deep: {template: {spec: {containers: [{image: a:1}]}}}}]}\n", "a:1 2\n"},
		{"list", "kind: List\nitems:\n- kind: Pod\n  spec:\n    containers:\n    - image: a:1\n- kind: Pod\n  spec:\n    containers:\n    - image: b:1\n", "a:1 6\nb:1 10\n"},
		{"documents, some of them empty", "---\n# nothing\n---\nkind: Pod\nspec:\n  containers:\n  - image: a:1\n---\n...\n---\nkind: Service\n---\nkind: Pod\nspec:\n  containers:\n  - image: b:1\n", "a:1 7\nb:1 16\n"},
		{"one image in several spellings", "nginx\ndocker.io/library/nginx:latest\nindex.docker.io/nginx\n", "nginx 1 2 3\n"},
		{"what Flux calls a kustomization", "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nspec: {path: ./apps}\n---\nkind: Pod\nspec: {containers: [{image: a:1}]}\n", "a:1 6\n"},
		{"JSON", "{\n\t\"kind\": \"Pod\",\n\t\"spec\": {\n\t\t\"containers\": [\n\t\t\t{\"image\": \"quay.io\\/a:1\", \"args\": [\"\\u003c\\ud83d\\ude00\"]}\n\t\t]\n\t}\n}\n", "quay.io/a:1 5\n"},
		{"JSON, one after the other", "{\"kind\": \"Pod\",\n\"spec\":{\"containers\":[{\"image\":\"a:1\"}]}}\n{\"kind\":\"Pod\",\n\"spec\":{\"containers\":[{\"image\":\"b:1\"}]}}\n", "a:1 2\nb:1 4\n"},
		{"YAML that begins as JSON does", "{kind: Pod, spec: {containers: [{image: a:1}]}}\n", "a:1 1\n"},
		{"JSON on one line", `{"kind":"Pod","spec":{"containers":[{"image":"a:1"}]}}`, "a:1 1\n"},
		{"Helm", "---\n# Source: app/templates/pod.yaml\nkind: Pod\nspec:\n  containers:\n    - image: \"a:1\"\n---\n# Source: app/templates/cm.yaml\nkind: ConfigMap\ndata:\n  alert: '{{ $labels.pod }}'\n", "a:1 6\n"},
		{"kubeadm", "registry.k8s.io/kube-apiserver:v1.34.0\nregistry.k8s.io/pause:3.10\n", "registry.k8s.io/kube-apiserver:v1.34.0 1\nregistry.k8s.io/pause:3.10 2\n"},
		{"kubeadm, with its warnings", "W1122 05:18:45.123456   12345 version.go:109] could not fetch a Kubernetes version from the internet: unable to get URL\n" +
			"W1122 05:18:45.123460   12345 version.go:110] falling back to the local client version: v1.34.0\nregistry.k8s.io/pause:3.10\n", "registry.k8s.io/pause:3.10 3\n"},
		{"kubeadm, YAML", "apiVersion: output.kubeadm.k8s.io/v1alpha3\nimages:\n- a:1\n- b:1\nkind: Images\n", "a:1 3\nb:1 4\n"},
		{"kubeadm, JSON", "{\n    \"kind\": \"Images\",\n    \"apiVersion\": \"output.kubeadm.k8s.io/v1alpha3\",\n    \"images\": [\n        \"a:1\",\n        \"b:1\"\n    ]\n}\n", "a:1 5\nb:1 6\n"},

		{"list in quotes", "\"nginx:1\"\n\"quay.io/a/b:2\" # jq\nc:3\n", "nginx:1 1\nquay.io/a/b:2 2\nc:3 3\n"},
		{"keys in quotes", "\"kind\": Pod\n\"spec\":\n  \"containers\":\n  - image: a:1\n", "a:1 4\n"},
		{"list with comments", "\xef\xbb\xbf# images\r\n\r\n  a:1 # the first\r\nb:1\t# the second\r\n#c:1\r\nlocalhost:5000/d", "a:1 3\nb:1 4\nlocalhost:5000/d 6\n"},
		{"a container that adds to another", "kind: Alertmanager\nspec:\n  containers:\n  - name: a\n    resources: {}\n  - image: b:1\n", "b:1 6\n"},
		{"a schema", "kind: CustomResourceDefinition\nspec:\n  containers: {type: array, items: {image: {type: string}}}\n---\nkind: Pod\nspec: {containers: [{image: a:1}]}\n", "a:1 6\n"},
		{"anchors", "kind: Pod\nx: &all\n- &one {image: &name a:1}\nspec:\n  containers: *all\n  initContainers: [*one]\n  ephemeralContainers:\n  - image: *name\n  - <<: *one\n  - {<<: *one, image: b:1}\n", "a:1 3 8 3\nb:1 10\n"},
		{"an anchor inside of itself", "kind: Pod\nspec: &s\n  again: *s\n  containers: &c\n  - image: a:1\n  - *c\n  - &m {<<: [*m, {image: b:1}]}\n", "a:1 5\nb:1 7\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found, err := workload.Read([]string{workload.Stdin}, strings.NewReader(tt.in))
			if tt.want == "" {
				if err == nil {
					t.Fatalf("got %s, want an error", printed(found))
				}
				return
			}
			if got := printed(found); err != nil || got != tt.want {
				t.Errorf("got\n%s%v\nwant\n%s", got, err, tt.want)
			}
		})
	}
}

func TestReadMistakes(t *testing.T) {
	pod := "kind: Pod\nspec:\n  containers:\n  - image: "
	const chart = "render the chart with `helm template`"
	for _, tt := range []struct{ name, in, want string }{
		{"template", pod + "{{ .Values.image }}\n", ":4: image is a template; " + chart},
		{"template in quotes", pod + "\"{{ .Values.image }}\"\n", `:4: image "{{ .Values.image }}" is a template; ` + chart},
		{"template of a tag", pod + "quay.io/a:{{ .Values.tag }}\n", ":4: image \"quay.io/a:{{ .Values.tag }}\" is a template"},
		{"template around", "{{- if .Values.x }}\nkind: Pod\n{{- end }}\n", "YAML syntax: "},
		{"template within", "kind: Pod\nspec:\n  {{- toYaml .Values.x | nindent 4 }}\n", "; if it is a template, " + chart},
		{"variable", pod + "${IMAGE}\n", ":4: image \"${IMAGE}\" has a variable; put its value in first"},
		{"values", "image:\n  tag: a\n", ":1: is no manifest: it has no kind; if it is of a chart, "},
		{"values, in a list", pod + "{repository: a, tag: b}\n", ":4: image is not text; "},
		{"empty", pod + "\"\"\n", ":4: image is empty; want a reference"},
		{"null", pod + "\n", ":4: image is empty; want a reference"},
		{"number", pod + "3.10\n", ":4: image is a number or the like (float); put quotes around it"},
		{"twice", pod + "a:1\n    image: b:1\n", ":5: image is already set in line 4"},
		{"no reference", pod + "a//b\n", `:4: parse reference "a//b": invalid reference format`},
		{"long", pod + strings.Repeat("a", 2000) + "\n", ":4: is longer than any reference"},
		{"kustomization", "kind: Kustomization\n", ":1: is a kustomization"},
		{"component of kustomize", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nimages: [{name: a, newTag: b}]\n---\n" + pod + "a:1\n", ":1: is a kustomization"},
		{"no mapping", "- a:1\n", ":1: is no manifest: want a mapping with a kind"},
		{"no mapping, in a later document", "kind: Pod\n---\na\n", ":3: is no manifest"},
		{"YAML of the scanner", "kind: Pod\nmetadata:\n  name: a: b\n", ":3: YAML syntax: mapping values are not allowed in this context"},
		{"YAML of the parser", "kind: Pod\nmetadata:\n  name: a\n  - b\n", ":3: YAML syntax: did not find expected key"},
		{"YAML, not closed", "kind: Pod\nx: y\nspec: {containers: [\n", ": YAML syntax: did not find expected node content"},
		{"unknown anchor", "kind: Pod\n\nspec: *absent\n", ":3: YAML syntax: unknown anchor 'absent' referenced"},
		{"JSON", "{\"kind\": \"Pod\",\n\"spec\": ]", ":2: YAML syntax: "},
		{"JSON, a number", `{"kind":"Pod","spec":{"containers":[{"image":3.10}]}}`, ":1: image is a number or the like (float)"},
		{"list", "a:1\nB:1\n# c\nd:1 e:1\n", `:2: parse reference "B:1"`},
		{"list, two on a line", "a:1\nd:1 e:1\n", ":2: want one reference on a line"},
		{"nothing", "", "find images in standard input: there are none"},
		{"no image", "kind: Service\n", "find images in standard input: there are none"},
		{"binary", "\x7fELF\x02\x01\x01\x00", ": is binary; want manifests or a list of images"},
		{"archive", "\x1f\x8b\x08\x00", ": is compressed; if it is a chart, " + chart},
		{"UTF-16", "\xff\xfea\x00:\x001\x00\n\x00", ": is UTF-16 text, as PowerShell writes it; want UTF-8"},
		{"id", "a:1\nsha256:" + strings.Repeat("a", 64) + "\n", ":2: image \"sha256:" + strings.Repeat("a", 64) + "\" is an id or a digest, "},
		{"policy", pod + "\"!*:latest\"\n", ":4: image \"!*:latest\" is a pattern, as policies have them; leave that manifest out"},
		{"scheme", pod + "docker://a:1\n", ":4: image \"docker://a:1\" has a scheme, "},
		{"not UTF-8", "caf\xe9", ": is not UTF-8 text"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found, err := workload.Read([]string{workload.Stdin}, strings.NewReader(tt.in))
			if err == nil {
				t.Fatalf("got %s, want an error with %q", printed(found), tt.want)
			}
			want := tt.want
			if strings.HasPrefix(want, ":") && !strings.HasPrefix(want, ": Y") {
				want = "standard input" + want
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q in it", err, want)
			}
		})
	}
}

// Mistakes are reported together, but not thousands of them.
func TestReadManyMistakes(t *testing.T) {
	_, err := workload.Read([]string{"absent.yaml", workload.Stdin, workload.Stdin}, strings.NewReader(strings.Repeat("Bad\n", 5000)))
	if err == nil {
		t.Fatal("got no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 13 || !strings.Contains(lines[0], "absent.yaml: no such file") || !strings.HasPrefix(lines[10], "standard input:10: ") ||
		lines[11] != "standard input: has 4990 more mistakes" || lines[12] != "standard input: is named twice, and can be read once" {
		t.Errorf("got %q", lines)
	}
}

func TestReadDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.yaml": "kind: Pod\nspec: {containers: [{image: b:1}]}\n", "a.YML": "kind: Pod\nspec: {containers: [{image: a:1}]}\n",
		"c/d.json": `{"kind":"Pod","spec":{"containers":[{"image":"d:1"}]}}`, "c/e.txt": "e:1\nb:1\n", "c/README.md": "Hello, world",
		".git/config.yaml": "{{", "..data/b.yaml": "{{", "script.sh": "echo",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	if err := os.Symlink("c", "link"); err != nil {
		t.Fatal(err)
	}
	found, err := workload.Read([]string{"."}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := printed(found), "a:1 a.YML:2\nb:1 b.yaml:2 c/e.txt:2\nd:1 c/d.json:1\ne:1 c/e.txt:1\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := strings.Join(found.LeftAlone, " "), "c/README.md link script.sh"; got != want {
		t.Errorf("got left alone %q, want %q", got, want)
	}
	if err := os.WriteFile("kustomization.yaml", []byte("resources: [b.yaml]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := workload.Read([]string{"."}, nil); err == nil || !strings.HasPrefix(err.Error(), "kustomization.yaml:1: is a kustomization") {
		t.Errorf("got %v, want what kustomize calls its own known without a kind", err)
	}
	if err := os.Remove("kustomization.yaml"); err != nil {
		t.Fatal(err)
	}
	if found, err := workload.Read([]string{"link", "c/README.md"}, nil); err == nil || !strings.Contains(err.Error(), "c/README.md:1: want one reference on a line") {
		t.Errorf("got %s, %v, want README.md to be read, since it is named, and refused", printed(found), err)
	}
	if err := os.Symlink("absent", "gone.yaml"); err != nil {
		t.Fatal(err)
	}
	if _, err := workload.Read([]string{"."}, nil); err == nil || !strings.Contains(err.Error(), "gone.yaml: no such file or directory") {
		t.Errorf("got %v, want the broken link reported", err)
	}
}

// Aliases of aliases stand for more than there is memory, and cost what they are long.
func TestReadBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("kind: Pod\na0: &a0 {containers: [{image: a:1}]}\n")
	for i := 1; i <= 40; i++ {
		fmt.Fprintf(&b, "a%d: &a%d {x: [%s]}\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
		fmt.Fprintf(&b, "m%d: &m%d {<<: [%s]}\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	b.WriteString("containers: [*m40, {<<: [*m40, *m39]}, {<<: *a40, image: b:1}]\n")
	wantWithin(t, time.Minute, b.String(), 2)
	// Each of many containers merges many mappings that have no image.
	many := 20000
	wantWithin(t, time.Minute, "kind: Pod\ne: &e {x: y}\nm: &m ["+strings.Repeat("*e,", many)+"]\ncontainers:\n- image: a:1\n"+strings.Repeat("- <<: *m\n", many), 1)
	// Deeper than anybody nests.
	path := filepath.Join(t.TempDir(), "deep.json")
	if err := os.WriteFile(path, []byte(`{"kind": `+strings.Repeat("[", 10<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := workload.Read([]string{path}, nil); err == nil || !strings.Contains(err.Error(), "deep.json:1: JSON syntax: is nested deeper than 1000") {
		t.Errorf("got %v of ten million brackets", err)
	}
	if _, err := workload.Read([]string{workload.Stdin}, strings.NewReader("kind: "+strings.Repeat("[", 1<<20))); err == nil {
		t.Error("got no error of a million brackets")
	}
}

// Ten megabytes are read in a second or two; the limit is for a machine that is busy.
func TestReadLarge(t *testing.T) {
	var b strings.Builder
	n := 0
	for ; b.Len() < 10<<20; n++ {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p%d\n  labels: {app: x, tier: y}\nspec:\n  containers:\n  - name: c\n    image: quay.io/team/app%d:1\n    args: [a, b, c]\n", n, n)
	}
	wantWithin(t, 5*time.Minute, b.String(), n)
}

func wantWithin(t *testing.T, limit time.Duration, text string, want int) {
	t.Helper()
	start := time.Now()
	found, err := workload.Read([]string{workload.Stdin}, strings.NewReader(text))
	if took := time.Since(start); err != nil || len(found.Images) != want || took > limit {
		t.Errorf("got %d images, %v in %s, want %d within %s", len(found.Images), err, took, want, limit)
	}
}

// Whatever is read, it is either understood or a mistake that says where.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{"a:1\n", "kind: Pod\nspec: {containers: [{image: a}]}\n", "{\"kind\":\"List\"}", "a: &a [*a]", "kind: Pod\n<<: {containers: [{<<: x}]}\n", "? a\n: b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found, err := workload.Read([]string{workload.Stdin}, strings.NewReader(text))
		if (err == nil) != (len(found.Images) > 0) && err == nil {
			t.Errorf("got neither an image nor a mistake of %q", text)
		}
		for _, image := range found.Images {
			for _, place := range image.Places {
				if lines := strings.Count(text, "\n") + 1; place.Line < 1 || place.Line > lines {
					t.Errorf("got %s of %d lines: %q", place, lines, text)
				}
			}
		}
	})
}
