// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-edge/berth/loader/bundle"
)

// State is where a bundle, or an image of one, stands.
type State string

const (
	// Listing is a bundle of which it is not known what is in it.
	Listing State = "listing"
	// Copying is a bundle that cannot be read and was written to a moment ago. It is looked at again when nobody writes to it.
	Copying State = "being copied"
	// Waiting is an image that is not worked on yet.
	Waiting State = "waiting"
	// Loading is a bundle of which an image is not loaded, or an image that is worked on.
	Loading State = "loading"
	// Loaded is an image that was loaded, a bundle of which all were.
	Loaded State = "loaded"
	// Repaired is an image of which something was damaged or missing.
	Repaired State = "repaired"
	// Present is an image, or a bundle of images, that was there as a whole.
	Present State = "present"
	// Failed is what could not be loaded, or not as a whole.
	Failed State = "failed"
	// Shadowed is an image that is not loaded, since each of its names is another's of a bundle further in front.
	Shadowed State = "shadowed"
	// NoImage is what a bundle holds under a name, and is no image: a chart, a signature. It is left where it is.
	NoImage State = "no image"
)

// entry is one bundle of a catalog. Its state is guarded by the catalog.
type entry struct {
	catalog *Catalog
	path    string
	byHand  bool // not one of the loader's paths
	awaited bool // somebody loads it by hand just now
	refused bool // by [find]; err says why

	bundle   *bundle.Bundle // nil until it is listed, or if it cannot be
	images   []*Image
	problems []error // images that cannot be used
	state    State
	err      error
	unread   os.FileInfo // of a bundle in which something is wrong, so that it could not be listed
	said     string      // what the log says of it
	news     bool        // and whether that is of this round
	noted    []string    // the names that the log says its images do not get
	start    time.Time   // of the work on it
}

// unchanged reports whether what is known of a bundle still holds: what is in it, or that it cannot be read.
func (e *entry) unchanged() bool {
	if e.bundle != nil {
		return !e.bundle.Changed()
	}
	now, err := os.Lstat(e.path)
	return e.unread != nil && err == nil && os.SameFile(now, e.unread) && now.Size() == e.unread.Size() &&
		now.ModTime().Equal(e.unread.ModTime()) && changedAt(now) == changedAt(e.unread)
}

// changedAt is when the inode of a file was last written to, which nobody can set as the time of modification is set.
func changedAt(info os.FileInfo) (at syscall.Timespec) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		at = stat.Ctim
	}
	return at
}

// isBadLayout reports whether a bundle is a directory that is not right: whether something below it changed cannot be told.
func (e *entry) isBadLayout() bool {
	if e.unread != nil {
		return e.unread.IsDir()
	}
	return e.bundle != nil && e.err != nil && e.bundle.Format() == "oci-layout"
}

// listed reports whether it is known what is in a bundle, or why not.
func (e *entry) listed() bool {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	return e.bundle != nil || e.unread != nil || e.refused
}

// cannotRead notes that a bundle cannot be listed, until it changes.
func (e *entry) cannotRead(info os.FileInfo, err error) {
	e.fail(err)
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	e.unread = info
}

// isCopied reports whether a bundle was being copied when it was last looked at.
func (e *entry) isCopied() bool {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	return e.state == Copying
}

func (e *entry) set(state State) {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	e.state = state
	e.catalog.notify()
}

// fail notes that nothing of the bundle, or nothing more, can be loaded.
func (e *entry) fail(err error) {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	e.state, e.err = Failed, err
	e.catalog.notify()
}

// end notes how the bundle stands after all its images were worked on.
func (e *entry) end() {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	e.state, e.err = Present, errors.Join(e.problems...)
	for _, image := range e.images {
		switch {
		case image.err != nil:
			e.err = errors.Join(e.err, problemOf(image.Names[0], e.path, oneLine{image.err}))
		case image.state == Loaded, image.state == Repaired:
			e.state = Loaded
		}
	}
	if e.err != nil {
		e.state = Failed
	}
	e.catalog.notify()
}

// problemOf is what is wrong with one image of a bundle.
func problemOf(image, bundle string, err error) error {
	return fmt.Errorf("image %s of bundle %s: %w", image, bundle, err)
}

// full returns the images for which there was no room.
func (e *entry) full() (images []*Image) {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	for _, i := range e.images {
		if isFull(i.err) {
			images = append(images, i)
		}
	}
	return images
}

func (e *entry) error() error {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	return e.err
}

// close lets go of a bundle. The catalog's lock is held.
func (e *entry) close() {
	if e.bundle != nil {
		e.bundle.Close()
	}
}

func (i *Image) start() { i.set(Loading, nil) }

func (i *Image) end(state State, err error) {
	if err != nil {
		state = Failed
	}
	outcomes.WithLabelValues(string(state)).Inc()
	i.set(state, err)
}

func (i *Image) fail(err error) { i.set(Failed, err) }

// setBroken notes that its bundle holds an image damaged, or not as a whole.
func (i *Image) setBroken() {
	i.catalog.mu.Lock()
	defer i.catalog.mu.Unlock()
	i.broken = true
}

func (i *Image) set(state State, err error) {
	i.catalog.mu.Lock()
	defer i.catalog.mu.Unlock()
	i.state, i.err = state, err
	i.catalog.notify()
}

func (i *Image) isLoading() bool {
	i.catalog.mu.Lock()
	defer i.catalog.mu.Unlock()
	return i.state == Loading
}

// names are those that the image is to be recorded by.
func (i *Image) names() []string {
	i.catalog.mu.Lock()
	defer i.catalog.mu.Unlock()
	return append([]string(nil), i.owned...)
}

// BundleStatus is what is known of one bundle.
type BundleStatus struct {
	Path   string
	Format string // "" until it is listed
	State  State
	Err    error
	Images []ImageStatus
}

// ImageStatus is what is known of one image of a bundle.
type ImageStatus struct {
	Names  []string
	Digest digest.Digest
	State  State
	Err    error
	// Notes say what else there is to know: names that the image does not have.
	Notes []string
	// Size is that of its content for this machine, Read how much of it was read from the bundle, in bytes.
	Size, Read int64
}

// Status returns what is known of every bundle.
func (c *Catalog) Status() []BundleStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]BundleStatus, 0, len(c.entries))
	for _, e := range c.entries {
		all = append(all, e.lockedStatus())
	}
	return all
}

func (e *entry) status() BundleStatus {
	e.catalog.mu.Lock()
	defer e.catalog.mu.Unlock()
	return e.lockedStatus()
}

func (e *entry) lockedStatus() BundleStatus {
	s := BundleStatus{Path: e.path, State: e.state, Err: e.err}
	if e.bundle != nil {
		s.Format = e.bundle.Format()
	}
	for _, i := range e.images {
		state := i.state
		if len(i.owned) == 0 && i.err == nil && state != NoImage {
			state = Shadowed // also if it was loaded before the bundle in front was listed
		}
		s.Images = append(s.Images, ImageStatus{Names: i.Names, Digest: i.Target.Digest, State: state, Err: i.err, Notes: i.lost, Size: i.contents.size(), Read: i.read.Load()})
	}
	return s
}
