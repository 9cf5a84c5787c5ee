// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-edge/berth/integration/daemon"
	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/integration/registry"
)

// expressions are what the dashboard and the alerts ask Prometheus for.
func expressions(t testing.TB) []string {
	t.Helper()
	var board struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	decode(t, "../contrib/grafana/berth.json", json.Unmarshal, &board)
	var rules struct {
		Groups []struct {
			Rules []struct{ Expr string }
		}
	}
	decode(t, "../contrib/prometheus/berth.rules.yaml", yaml.Unmarshal, &rules)
	var all []string
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			all = append(all, target.Expr)
		}
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			all = append(all, rule.Expr)
		}
	}
	if len(all) < 15 {
		t.Fatalf("got %d expressions, want those of a dashboard and of alerts", len(all))
	}
	return all
}

func decode(t testing.TB, path string, unmarshal func([]byte, any) error, to any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = unmarshal(text, to)
	}
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
}

var (
	metric   = regexp.MustCompile(`berth_[a-z_]+`)
	grouping = regexp.MustCompile(`by \(([a-z_, ]+)\)`)
	matcher  = regexp.MustCompile(`([a-z_]+)(?:=~|!=|=)"([^"]*)"`)
)

// TestDashboard has a node do all that is counted: every metric, label and value that the dashboard and the alerts name is
// exported then, and each metric of ours is in one of them.
func TestDashboard(t *testing.T) {
	exported := busyNode(t)
	var shown []string
	for _, expr := range expressions(t) {
		names := metric.FindAllString(expr, -1)
		if len(names) == 0 {
			t.Errorf("%s: got no metric of ours", expr)
			continue
		}
		shown = append(shown, names...)
		for _, name := range names {
			if !strings.Contains(exported, "\n"+name+"{") && !strings.Contains(exported, "\n"+name+" ") {
				t.Errorf("%s: got no metric %s", expr, name)
			}
		}
		var labels []string
		for _, by := range grouping.FindAllStringSubmatch(expr, -1) {
			labels = append(labels, strings.Split(by[1], ", ")...)
		}
		for _, m := range matcher.FindAllStringSubmatch(expr, -1) {
			labels = append(labels, m[1])
			if value := fmt.Sprintf("%s=%q", m[1], m[2]); m[1] != "instance" && !strings.Contains(exported, value) {
				t.Errorf("%s: got no value %s", expr, value)
			}
		}
		for _, label := range labels {
			has := regexp.MustCompile(`(?m)^` + names[0] + `\{[^}]*\b` + label + `="`)
			if label != "instance" && !has.MatchString(exported) { // that is Prometheus' own
				t.Errorf("%s: got no label %s of %s", expr, label, names[0])
			}
		}
	}
	details := []string{"berth_config_generation", "berth_loader_bundle_seconds", "berth_loader_images_total", "berth_loader_read_bytes_total", "berth_loader_written_bytes_total"}
	for _, help := range regexp.MustCompile(`(?m)^# TYPE (berth_[a-z_]+) `).FindAllStringSubmatch(exported, -1) {
		if name := help[1]; !slices.Contains(shown, name) && !slices.Contains(shown, name+"_bucket") && !slices.Contains(details, name) {
			t.Errorf("got no panel and no alert with %s", name)
		}
	}
}

// busyNode returns the metrics of a node that pulled, fell back, failed, refused, loaded, and was configured anew, well and badly.
func busyNode(t testing.TB) string {
	t.Helper()
	daemon.RequireRoot(t)
	r := registry.Start(t, registry.Options{Users: ann})
	image.Small("linux/amd64", 77).Push(t, r, "edge/a:1")
	text := entry(t, r, "edge", login("ann", "s3cret"), "insecure = true") +
		rule("quay.io", registry.Refusing(t)+"/dead", r.Host()+"/edge") + "[[rules]]\nfrom = \"gcr.io\"\ndeny = true\n"
	l := newLoading(t, text, daemon.Options{Level: "info"})
	l.put(t, "bad.tar", []byte("nothing"))
	l.bundle(t, "good.tar", oneLayer(620, "registry.k8s.io/good:1"))
	l.start(t)
	if err := pullCtr(t, l.Daemon, "quay.io/a:1"); err != nil {
		t.Fatal(err)
	}
	wantError(t, pullCtr(t, l.Daemon, "gcr.io/a:1"), "denied")
	wantError(t, pullCtr(t, l.Daemon, "quay.io/missing:1"), "not found")
	l.configure(t, "registry.toml", text+"[[rules]]\nfrom = \"ghcr.io\"\ndeny = true\n")
	within(t, 10*time.Second, "change that is applied", func() bool { return strings.Contains(l.Metrics(t), "\nberth_config_generation 2\n") })
	l.configure(t, "registry.toml", "nonsense = 1\n")
	within(t, 10*time.Second, "change that is refused", func() bool {
		return strings.Contains(l.Metrics(t), "\nberth_config_last_reload_successful 0\n")
	})
	return l.Metrics(t)
}
