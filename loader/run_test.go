// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"

	"github.com/berth-edge/berth/integration/image"
	"github.com/berth-edge/berth/loader"
)

// slowStore is one in which to list all images, as a verification does, takes until it is told to end.
type slowStore struct {
	images.Store
	asked, end chan struct{}
}

func (s slowStore) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	if len(filters) == 0 {
		close(s.asked)
		<-s.end
	}
	return s.Store.List(ctx, filters...)
}

// TestLoadWhileVerifying has a bundle come while what is unpacked is verified, as a folder that is mounted late after a power cut:
// it is loaded at once, and loaded is called when everything is verified.
func TestLoadWhileVerifying(t *testing.T) {
	folder := bundles(t)
	pulls := make(chan string, 10)
	l, _ := newLoader(t, folder, func(source any) error {
		pulls <- source.(*loader.Source).Image()
		return errors.New("no transfer service")
	})
	store := slowStore{l.Images, make(chan struct{}), make(chan struct{})}
	l.Images = store
	l.Namespaces = func(context.Context) ([]string, error) { return []string{"k8s.io"}, nil }
	ctx, cancel := context.WithCancel(t.Context())
	changes, loaded, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx, changes, func() { close(loaded) })
	}()
	<-store.asked
	img := image.Small("linux/amd64", 1)
	image.WriteFile(t, filepath.Join(folder, "late.tar"), image.Tar(image.OCI([]image.Named{img.Name("quay.io/late:1")})))
	select {
	case changes <- struct{}{}:
	case <-time.After(10 * time.Second):
		t.Error("got nobody who hears of a change, want the bundle loaded")
	}
	select {
	case <-pulls:
	case <-time.After(10 * time.Second):
		t.Error("got no pull from the bundle, want one")
	}
	select {
	case <-loaded:
		t.Error("got loaded, want it when all is verified")
	default:
	}
	close(store.end)
	<-loaded
	cancel()
	<-ended
}
