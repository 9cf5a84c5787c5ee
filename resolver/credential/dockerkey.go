// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import "strings"

// hub is the host that Docker Hub's images are named by.
const hub = "docker.io"

// isHub reports whether host is one of Docker Hub's three.
func isHub(host string) bool {
	switch host {
	case hub, "index.docker.io", "registry-1.docker.io":
		return true
	}
	return false
}

// dockerKey brings a key of docker's config.json to the form host[:port][/path] of images. Docker's own keys are hosts, or
// URLs as https://h/v1/ and https://h/v2/; those of containers' auth.json may have the path of some images. The port 443 is
// that of HTTPS anyway.
func dockerKey(key string) string {
	_, bare, isURL := strings.Cut(key, "://")
	if !isURL {
		bare = key
	}
	host, path, _ := strings.Cut(strings.Trim(bare, "/"), "/")
	host = strings.TrimSuffix(strings.ToLower(host), ":443")
	if isHub(host) {
		host = hub
	}
	for _, version := range []string{"v1", "v2"} {
		if path == version {
			path = ""
		}
	}
	if path == "" {
		return host
	}
	return host + "/" + path
}

// keyHost returns the host[:port] of a key.
func keyHost(key string) string { return hostOf(dockerKey(key)) }

// parents returns image and the prefixes of it that end at a slash, the longest first.
func parents(image string) []string {
	image = dockerKey(image)
	list := []string{image}
	for i := strings.LastIndexByte(image, '/'); i > 0; i = strings.LastIndexByte(image[:i], '/') {
		list = append(list, image[:i])
	}
	return list
}
