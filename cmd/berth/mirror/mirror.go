// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package mirror looks where images will be pulled from, and puts them there.
//
// It goes along the routes that a pull goes along, with the same registries, credentials, certificates and time limits: what
// it finds is what a node will find.
package mirror

import (
	"sync"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/endpoint"
)

// Mirror is safe for concurrent use.
type Mirror struct {
	routes *resolver.Routes
	// platform is what images are wanted for, and wanted its name.
	platform platforms.MatchComparer
	wanted   string

	uploads      uploads
	large        chan struct{} // has an element for each large blob that is bundled now
	mu           sync.Mutex
	unconfigured map[string]*endpoint.Endpoint // by host
	contacts     map[*endpoint.Endpoint]*contact
}

// New returns a mirror along routes, for images of a platform.
func New(routes *resolver.Routes, platform ocispec.Platform) *Mirror {
	return &Mirror{
		routes: routes, platform: platforms.Only(platform), wanted: platforms.Format(platform),
		unconfigured: map[string]*endpoint.Endpoint{}, contacts: map[*endpoint.Endpoint]*contact{},
		large:   make(chan struct{}, endpoint.MaxLarge),
		uploads: uploads{has: map[blob]string{}, busy: map[blob]chan struct{}{}, seen: map[blob]bool{}},
	}
}

// each calls f for every element, several at once.
func each[T any](elements []T, f func(i int, element T)) {
	const atOnce = 8
	var working sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i, element := range elements {
		free <- struct{}{}
		working.Go(func() {
			defer func() { <-free }()
			f(i, element)
		})
	}
	working.Wait()
}
