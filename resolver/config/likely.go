// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/strict"
)

// wellKnown are registries whose names people write down wrongly: in published examples grc.io stands for gcr.io.
var wellKnown = []string{
	"docker.io", "ghcr.io", "quay.io", "gcr.io", "us.gcr.io", "eu.gcr.io", "asia.gcr.io", "k8s.gcr.io", "registry.k8s.io",
	"us-docker.pkg.dev", "europe-docker.pkg.dev", "asia-docker.pkg.dev", "mcr.microsoft.com", "public.ecr.aws", "nvcr.io",
	"icr.io", "lscr.io", "registry.gitlab.com", "registry.redhat.io", "registry.access.redhat.com", "registry.suse.com",
	"registry.rancher.com", "docker.elastic.co",
}

// meant returns the well-known registry that host most likely stands for, "" if it is well known itself, or like none.
func meant(host string) string {
	if slices.Contains(wellKnown, host) {
		return ""
	}
	for _, known := range wellKnown {
		if isSlip(host, known) {
			return known
		}
	}
	return ""
}

// isSlip reports whether one letter of b is missing, too many or another in a, or two are exchanged.
func isSlip(a, b string) bool {
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for a != "" && b != "" && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return len(a) <= 1 && len(b) <= 1 || len(a) == 2 && len(b) == 2 && a[0] == b[1] && a[1] == b[0]
}

// target is where a rule leads, and where that is written.
type target struct {
	to   string
	rule *strict.Table
}

// warnFrom warns of a host that is likely misspelt: the rule would match nothing, and pulls go past it.
func (l *loader) warnFrom(t *strict.Table, from string) {
	host, _, _ := strings.Cut(strings.TrimPrefix(from, "*."), "/")
	if known := meant(host); known != "" {
		l.warn("%s", t.About("from", "is for the host %s; was %s meant?", host, known))
	}
}

// warnTargets warns of targets under no registry, where there are registries: no credential and no certificate is for them.
func (l *loader) warnTargets() {
	if len(l.loaded.Registries) == 0 {
		return
	}
	warned := map[string]bool{}
	for _, target := range l.targets {
		configured := slices.ContainsFunc(l.loaded.Registries, func(r resolver.Registry) bool { return r.Domain.Contains(target.to) })
		if !configured && !warned[target.to] {
			warned[target.to] = true
			l.warn("%s", target.rule.About("to", "%s is under no registry of the configuration: it is asked without a credential, and with the system's certificates", target.to))
		}
	}
}
