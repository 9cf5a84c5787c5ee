// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	configured = prometheus.NewDesc("berth_configured",
		"1 if pulls go along rules, 0 if there are none, -1 if the configuration cannot be used and pulls are refused.", nil, nil)
	insecure = prometheus.NewDesc("berth_registry_insecure",
		"1 for each registry whose certificate is not checked.", []string{"registry"}, nil)
	generation = prometheus.NewDesc("berth_config_generation",
		"Configurations that came into force since containerd started.", nil, nil)
	lastReload = prometheus.NewDesc("berth_config_last_reload_successful",
		"0 if the last change of the configuration was refused and what was before stays in force, else 1.", nil, nil)
	reloads = prometheus.NewDesc("berth_config_reloads_total",
		"Changes of the configuration since containerd started, by outcome: applied or refused.", []string{"outcome"}, nil)
)

// Describe implements [prometheus.Collector].
func (r *Resolver) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{configured, insecure, generation, lastReload, reloads} {
		ch <- desc
	}
}

// Collect implements [prometheus.Collector].
func (r *Resolver) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	s, c := r.state, r.change
	r.mu.Unlock()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for _, registry := range s.Registries {
		if registry.Endpoint.Insecure {
			gauge(insecure, 1, string(registry.Domain))
		}
	}
	switch {
	case s.Err != nil:
		gauge(configured, -1)
	case s.Loaded.Configured():
		gauge(configured, 1)
	default:
		gauge(configured, 0)
	}
	gauge(generation, float64(s.Generation))
	if c.refused != nil {
		gauge(lastReload, 0)
	} else {
		gauge(lastReload, 1)
	}
	ch <- prometheus.MustNewConstMetric(reloads, prometheus.CounterValue, float64(max(s.Generation, 1)-1), "applied")
	ch <- prometheus.MustNewConstMetric(reloads, prometheus.CounterValue, float64(c.refusals), "refused")
}
