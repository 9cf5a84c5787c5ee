// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
)

// manifest and index are each read with what only the other may have: a document that can be taken for both means
// different images to different readers (CVE-2021-41190).
type manifest struct {
	MediaType string     `json:"mediaType"`
	Config    descriptor `json:"config"`
	Layers    layers     `json:"layers"`
	Manifests present    `json:"manifests"`
	FSLayers  present    `json:"fsLayers"`
}

type index struct {
	MediaType string    `json:"mediaType"`
	Manifests manifests `json:"manifests"`
	Config    present   `json:"config"`
	Layers    present   `json:"layers"`
	FSLayers  present   `json:"fsLayers"`
}

var errSchema1 = errors.New("schema 1 manifests are not supported; pull and save the image again with a current tool")

func parseManifest(name string, data []byte) (manifest, error) {
	var m manifest
	if err := parseJSON(name, data, &m); err != nil {
		return m, err
	}
	switch {
	case bool(m.FSLayers) || isSchema1(m.MediaType):
		return m, fmt.Errorf("%s: %w", name, errSchema1)
	case bool(m.Manifests) || images.IsIndexType(m.MediaType):
		return m, fmt.Errorf("%s: media-type: expected manifest but found index", name)
	}
	if err := m.Config.check(); err != nil {
		return m, fmt.Errorf("%s: config: %w", name, err)
	}
	for i, layer := range m.Layers {
		if err := layer.check(); err != nil {
			return m, fmt.Errorf("%s: layer %d: %w", name, i, err)
		}
	}
	return m, nil
}

func parseIndex(name string, data []byte) (index, error) {
	var x index
	if err := parseJSON(name, data, &x); err != nil {
		return x, err
	}
	switch {
	case bool(x.FSLayers) || isSchema1(x.MediaType):
		return x, fmt.Errorf("%s: %w", name, errSchema1)
	case bool(x.Config) || bool(x.Layers) || images.IsManifestType(x.MediaType):
		return x, fmt.Errorf("%s: media-type: expected index but found manifest", name)
	}
	for i, child := range x.Manifests {
		if err := child.check(); err != nil {
			return x, fmt.Errorf("%s: manifest %d: %w", name, i, err)
		}
	}
	return x, nil
}

// config is what is read of an image's config.
type config struct {
	platform
	RootFS struct {
		DiffIDs diffIDs `json:"diff_ids"`
	} `json:"rootfs"`
}
