// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

// What a bundle may be at most. Real ones stay far below; a bundle that was made to harm is stopped here, so that
// reading it takes less than 64 MiB of memory, and a zstd window on top of that.
const (
	// maxJSON is the size of an index, a manifest or a config. It is the limit of containerd's importer.
	maxJSON = 20 << 20
	// maxFiles is the number of entries of an archive, directories included, or of blobs of a layout.
	maxFiles = 100_000
	// maxName is the length of an entry's name, and maxNames of all of them together.
	maxName  = 4096
	maxNames = 16 << 20
	// maxManifests is the number of manifests of one index, and of images of a bundle.
	maxManifests = 10_000
	// maxDepth is how deep indexes may be nested, index.json not counted.
	maxDepth = 8
	// maxLayers is the number of layers of one manifest.
	maxLayers = 500
	// maxMade is the size of all manifests that are made for a docker-save archive.
	maxMade = 16 << 20
	// maxFeatures is the number of os.features of a platform.
	maxFeatures = 32

	// maxRatio is how much larger than its compressed form data may be, once there is more than freeRatio of it.
	maxRatio  = 1000
	freeRatio = 64 << 20
	// maxWindow is the window of a zstd frame, which is what decompressing it takes of memory: that of zstd --long.
	maxWindow = 128 << 20

	// maxKept is how much JSON of a compressed bundle is kept while it is listed, and maxKeptFile of one file whose
	// name does not say that it will be needed. What is not kept costs another pass; maxPasses is the end of that.
	maxKept     = 24 << 20
	maxKeptFile = 2 << 20
	maxPasses   = 16
)
