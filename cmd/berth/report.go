// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-edge/berth/plugin/api"
)

// What follows is what commands print as JSON, as docs/schema describes it. The messages of package api may change with the
// daemon; this may only grow.

// statusReport is of `berth status`.
type statusReport struct {
	Containerd string          `json:"containerd"`
	Berth      string          `json:"berth"`
	Good       bool            `json:"good"`
	Resolver   *resolverReport `json:"resolver"`
	Loader     *loaderReport   `json:"loader"`
	Damages    []damageReport  `json:"damages"`
}

type resolverReport struct {
	State           string             `json:"state"`
	Since           string             `json:"since"`
	Generation      uint64             `json:"generation"`
	Registries      []string           `json:"registries"`
	Rules           uint32             `json:"rules"`
	Files           []string           `json:"files"`
	Errors          []string           `json:"errors"`
	Warnings        []string           `json:"warnings"`
	Refused         []string           `json:"refused"`
	RefusedSince    string             `json:"refused_since"`
	Credentials     []credentialReport `json:"credentials"`
	CRI             []string           `json:"cri"`
	CRINeedsRestart bool               `json:"cri_needs_restart"`
}

type credentialReport struct {
	Registry string `json:"registry"`
	Error    string `json:"error"`
	Since    string `json:"since"`
	Kept     bool   `json:"kept"`
}

type loaderReport struct {
	Paths     []string       `json:"paths"`
	Namespace string         `json:"namespace"`
	Errors    []string       `json:"errors"`
	Bundles   []bundleReport `json:"bundles"`
	Departed  []string       `json:"departed"`
}

// bundleReport is of `berth load` too, which prints a list of it.
type bundleReport struct {
	Path   string        `json:"path"`
	Format string        `json:"format"`
	State  string        `json:"state"`
	Images []imageReport `json:"images"`
	Error  string        `json:"error"`
}

type imageReport struct {
	Names  []string `json:"names"`
	Digest string   `json:"digest"`
	State  string   `json:"state"`
	Size   int64    `json:"size"`
	Notes  []string `json:"notes"`
	Error  string   `json:"error"`
}

type damageReport struct {
	Namespace string `json:"namespace"`
	Text      string `json:"text"`
	Mended    bool   `json:"mended"`
}

// checkReport is of `berth config check`.
type checkReport struct {
	Good       bool            `json:"good"`
	Registries int             `json:"registries"`
	Rules      int             `json:"rules"`
	Files      []string        `json:"files"`
	Errors     []problemReport `json:"errors"`
	Warnings   []string        `json:"warnings"`
}

type problemReport struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Key  string `json:"key"`
	Text string `json:"text"`
}

func reportStatus(s *api.StatusResponse, good bool) statusReport {
	report := statusReport{Containerd: s.Containerd, Berth: s.Berth, Good: good, Damages: []damageReport{}}
	if r := s.Resolver; r != nil {
		report.Resolver = &resolverReport{
			State: strings.ToLower(r.State.String()), Since: timeText(r.Since), Generation: r.Generation, Registries: list(r.Registries),
			Rules: r.Rules, Files: list(r.Files), Errors: list(r.Problems), Warnings: list(r.Warnings), Refused: list(r.Refused),
			RefusedSince: timeText(r.RefusedSince), CRI: list(r.Cri), CRINeedsRestart: r.CriRefused,
			Credentials: []credentialReport{},
		}
		for _, c := range r.Credentials {
			report.Resolver.Credentials = append(report.Resolver.Credentials, credentialReport{c.Registry, c.Error, timeText(c.Since), c.Kept})
		}
	}
	if l := s.Loader; l != nil {
		report.Loader = &loaderReport{Paths: list(l.Paths), Namespace: l.Namespace, Errors: list(l.Problems), Bundles: reportBundles(l.Bundles), Departed: list(l.Departed)}
	}
	for _, d := range s.Damages {
		report.Damages = append(report.Damages, damageReport{d.Namespace, d.Text, d.Mended})
	}
	return report
}

func reportBundles(bundles []*api.BundleStatus) []bundleReport {
	reports := []bundleReport{}
	for _, b := range bundles {
		report := bundleReport{Path: b.Path, Format: b.Format, State: b.State, Images: []imageReport{}, Error: b.Error}
		for _, i := range b.Images {
			report.Images = append(report.Images, imageReport{list(i.Names), i.Digest, i.State, i.Size, list(i.Notes), i.Error})
		}
		reports = append(reports, report)
	}
	return reports
}

// list is never null.
func list(texts []string) []string { return append([]string{}, texts...) }

// timeText is in UTC (RFC 3339), "" for none.
func timeText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339)
}
