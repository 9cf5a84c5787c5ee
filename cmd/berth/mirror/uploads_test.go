// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newUploads() *uploads {
	return &uploads{has: map[blob]string{}, busy: map[blob]chan struct{}{}, seen: map[blob]bool{}}
}

// What is to be sent counts once, and what was sent not any more.
func TestUploadsPlanned(t *testing.T) {
	u := newUploads()
	u.done(blob{"r.io", "sha256:sent"}, "app")
	for _, tt := range []struct {
		b    blob
		want bool
	}{{blob{"r.io", "sha256:a"}, true}, {blob{"r.io", "sha256:a"}, false}, {blob{"s.io", "sha256:a"}, true}, {blob{"r.io", "sha256:sent"}, false}} {
		if got := u.plan(tt.b); got != tt.want {
			t.Errorf("%v: got it counted %t, want %t", tt.b, got, tt.want)
		}
	}
}

// A blob that many want is sent by one, after another who was to send it did not.
func TestUploads(t *testing.T) {
	u, b := newUploads(), blob{"r.io", "sha256:a"}
	var asked, sent atomic.Int64
	var working sync.WaitGroup
	for range 20 {
		working.Go(func() {
			for {
				repository, err := u.find(t.Context(), b)
				switch {
				case err != nil:
					t.Error(err)
					return
				case repository != "":
					if repository != "app" {
						t.Errorf("got repository %q, want app", repository)
					}
					return
				case asked.Add(1) < 3:
					u.failed(b)
				default:
					sent.Add(1)
					time.Sleep(time.Millisecond)
					u.done(b, "app")
				}
			}
		})
	}
	working.Wait()
	if asked.Load() != 3 || sent.Load() != 1 {
		t.Errorf("got %d asked to send it and %d who did, want 3 and 1", asked.Load(), sent.Load())
	}
}

// Who waits for another can give up; a blob of another registry is another blob.
func TestUploadsGiveUp(t *testing.T) {
	u, b := newUploads(), blob{"r.io", "sha256:a"}
	if repository, err := u.find(t.Context(), b); repository != "" || err != nil {
		t.Fatalf("got %q, %v, want to be asked to send it", repository, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := u.find(ctx, b); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a wait that ends", err)
	}
	if repository, err := u.find(t.Context(), blob{"s.io", "sha256:a"}); repository != "" || err != nil {
		t.Errorf("another registry: got %q, %v, want to be asked to send it", repository, err)
	}
}
