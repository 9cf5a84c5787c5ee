// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package k3s reads registries.yaml, the file in which k3s and RKE2 have mirrors and credentials of registries.
package k3s

import "slices"

// Is reports whether a YAML file whose top keys these are is a registries.yaml.
func Is(topKeys []string) bool {
	return slices.Contains(topKeys, "mirrors") || slices.Contains(topKeys, "configs")
}
