// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	outcomes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_loader_images_total",
		Help: "Images of bundles that were worked on, by how that ended: loaded, repaired, present or failed.",
	}, []string{"outcome"})
	bytesRead = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "berth_loader_read_bytes_total",
		Help: "Bytes of image content read from bundles.",
	})
	bytesWritten = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "berth_loader_written_bytes_total",
		Help: "Bytes of image content written to the content store. What is unpacked from it is not counted.",
	})
	seconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "berth_loader_bundle_seconds",
		Help:    "Seconds that bundles took, those of which everything was present too.",
		Buckets: prometheus.ExponentialBuckets(0.01, 2.5, 12),
	})
	bundleStates = prometheus.NewDesc("berth_loader_bundles",
		"Bundles by where they stand: listing, being copied, loading, loaded, present or failed.", []string{"state"}, nil)
	imageStates = prometheus.NewDesc("berth_loader_images",
		"Images of bundles by where they stand: waiting, loading, loaded, repaired, present, failed, shadowed or no image.", []string{"state"}, nil)
)

// Collectors are the metrics of loading.
func Collectors() []prometheus.Collector {
	return []prometheus.Collector{outcomes, bytesRead, bytesWritten, seconds}
}

// Describe implements [prometheus.Collector].
func (l *Loader) Describe(ch chan<- *prometheus.Desc) {
	ch <- bundleStates
	ch <- imageStates
}

// Collect implements [prometheus.Collector].
func (l *Loader) Collect(ch chan<- prometheus.Metric) {
	bundles := map[State]int{Listing: 0, Copying: 0, Loading: 0, Loaded: 0, Present: 0, Failed: 0}
	images := map[State]int{Waiting: 0, Loading: 0, Loaded: 0, Repaired: 0, Present: 0, Failed: 0, Shadowed: 0, NoImage: 0}
	for _, b := range l.catalog.Status() {
		bundles[b.State]++
		for _, i := range b.Images {
			images[i.State]++
		}
	}
	for state, n := range bundles {
		ch <- prometheus.MustNewConstMetric(bundleStates, prometheus.GaugeValue, float64(n), string(state))
	}
	for state, n := range images {
		ch <- prometheus.MustNewConstMetric(imageStates, prometheus.GaugeValue, float64(n), string(state))
	}
}
