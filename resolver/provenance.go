// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"time"

	"github.com/containerd/log"
	"github.com/prometheus/client_golang/prometheus"
)

// The labels of a pulled image that say where it came from.
const (
	// LabelSource is the registry that the image was pulled from: a configured domain, or the host.
	LabelSource = "io.berth.source"
	// LabelPulledAs is the reference that it was pulled by.
	LabelPulledAs = "io.berth.pulled-as"
	// LabelRule is the rule that applied, "" for none.
	LabelRule = "io.berth.rule"
	// LabelPulledAt is when, in UTC (RFC 3339).
	LabelPulledAt = "io.berth.pulled-at"
)

// provenance is what is said of one attempt.
type provenance struct {
	ref      string
	kind     Kind
	registry string // domain, "" for one that is not configured
	name     string // what the operator calls the registry, "" for nothing
	pulledAs string
	rule     string
	source   *source
	took     time.Duration
}

var (
	pulls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_pulls_total",
		Help: "Attempts to pull an image, by where they went (registry: a configured domain, or \"source\" for the registry that the reference names) and how they ended.",
	}, []string{"kind", "registry", "outcome"})
	fallbacks = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_pull_fallbacks_total",
		Help: "Targets of a route that failed, by registry and cause.",
	}, []string{"registry", "cause"})
	pullBytes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_pull_bytes_total",
		Help: "Bytes of image content read from registries.",
	}, []string{"kind", "registry"})
	pullSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "berth_pull_seconds",
		Help:    "Seconds that attempts to pull took.",
		Buckets: prometheus.ExponentialBuckets(0.1, 2, 14),
	}, []string{"kind", "registry"})
	refusals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_pulls_refused_total",
		Help: "Pulls that were refused before anything was asked, by cause.",
	}, []string{"cause"})
)

// Collectors are the metrics of pulls.
func Collectors() []prometheus.Collector {
	return []prometheus.Collector{pulls, fallbacks, pullBytes, pullSeconds, refusals}
}

func countRefusal(cause outcome) { refusals.WithLabelValues(string(cause)).Inc() }

func countFallback(target Target, cause outcome) {
	fallbacks.WithLabelValues(registryLabel(target.Kind, target.Domain()), string(cause)).Inc()
}

// registryLabel keeps a metric's values to what is configured.
func registryLabel(kind Kind, domain string) string {
	switch {
	case domain != "":
		return domain
	case kind == KindSource:
		return Source
	}
	return "unconfigured"
}

// sourceName is the registry of a target, for people.
func sourceName(t Target) string {
	if domain := t.Domain(); domain != "" {
		return domain
	}
	return Prefix(t.Pull.Name()).Host()
}

// record counts an attempt, and writes the one line of a pull that succeeded.
func record(ctx context.Context, p provenance, err error) {
	registry := registryLabel(p.kind, p.registry)
	pulls.WithLabelValues(string(p.kind), registry, string(outcomeOf(err))).Inc()
	pullBytes.WithLabelValues(string(p.kind), registry).Add(float64(p.source.bytes.Load()))
	pullSeconds.WithLabelValues(string(p.kind), registry).Observe(p.took.Seconds())
	if err != nil {
		return
	}
	source := registry
	if registry == Source || registry == "unconfigured" {
		source = Prefix(p.pulledAs).Host()
	}
	fields := log.Fields{
		"ref":       p.ref,
		"source":    source,
		"pulled-as": p.pulledAs,
		"rule":      p.rule,
		"digest":    p.source.resolved.String(),
		"bytes":     p.source.bytes.Load(),
		"seconds":   p.took.Seconds(),
	}
	if p.name != "" {
		fields["registry-name"] = p.name
	}
	log.G(ctx).WithFields(fields).Info("pulled image")
}
