// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"io"
	"os"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/opencontainers/go-digest"
)

// listingVersion changes when the meaning of a Listing does; one of another version is not used.
const listingVersion = 2

// Listing is what a later [Open] of the same file would otherwise have to decompress or hash. It is made to be kept as
// JSON, where nobody writes whom the bundle's reader does not trust: what it says of a file that has not changed is
// believed. It is small: names and sizes of entries, and the manifests and configs.
type Listing struct {
	Version int      `json:"version"`
	File    identity `json:"file"`
	// Tail is the digest of the file's end, which differs where an inode tells nothing: reproducible images of read-only file
	// systems have files of other content with the same inodes, sizes and times.
	Tail    digest.Digest `json:"tail"`
	Entries []entry       `json:"entries"`
	// Followed says that another archive follows, which is not read.
	Followed bool `json:"followed,omitempty"`
}

// entry is one entry of an archive in a Listing.
type entry struct {
	Name     string                  `json:"name"`
	Size     int64                   `json:"size"`
	Link     string                  `json:"link,omitempty"`
	Unusable string                  `json:"unusable,omitempty"`
	Packed   compression.Compression `json:"packed,omitempty"`
	Digest   digest.Digest           `json:"digest,omitempty"`
	// Content is that of small files which are needed to list the bundle.
	Content []byte `json:"content,omitempty"`
}

// Listing returns what makes a later Open of the same file cheap. It is nil where Open is cheap anyway: of a plain
// bundle of which nothing had to be hashed.
func (b *Bundle) Listing() *Listing {
	if !b.isRemembered() {
		return nil
	}
	l := &Listing{Version: listingVersion, File: b.id, Tail: b.tail}
	if c, ok := b.files.(*compressed); ok {
		l.Followed = c.followed
		for _, f := range c.list {
			l.Entries = append(l.Entries, entry{f.name, f.size, f.link, f.unusable, f.packed, f.digest, c.kept[f]})
		}
		return l
	}
	for _, f := range b.files.all() {
		if f.digest != "" {
			l.Entries = append(l.Entries, entry{Name: f.name, Size: f.size, Digest: f.digest})
		}
	}
	return l
}

// isRemembered reports whether b has a Listing.
func (b *Bundle) isRemembered() bool { return b.Compressed() || b.hashed }

// isOf reports whether l is of the file that id is of and f opens, and can be used at all. Whoever lists the file says why it
// cannot be read.
func (l *Listing) isOf(id identity, f *held[*os.File]) bool {
	if l.File != id || !l.valid() {
		return false
	}
	tail, err := tailOf(f)
	return err == nil && l.Tail == tail
}

// tailBytes is how much of the end of a file is looked at to tell it from another. A compressed one has a checksum of all that is
// in it there (RFC 1952, section 2.3.1; RFC 8878, section 3.1.1), and that of docker save a manifest.json, which names what is in
// it by digests.
const tailBytes = 64 << 10

// tailOf is the digest of the end of a file.
func tailOf(f *held[*os.File]) (digest.Digest, error) {
	file, release, err := f.take()
	if err != nil {
		return "", err
	}
	defer release()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	tail := min(info.Size(), tailBytes)
	return digest.FromReader(io.NewSectionReader(file, info.Size()-tail, tail))
}

// valid reports whether l can be used at all.
func (l *Listing) valid() bool {
	if l.Version != listingVersion || len(l.Entries) > maxFiles {
		return false
	}
	for _, e := range l.Entries {
		if e.Size < 0 || e.Digest != "" && e.Digest.Validate() != nil || e.Content != nil && int64(len(e.Content)) != e.Size {
			return false
		}
	}
	return true
}

// restore fills c from l.
func (l *Listing) restore(c *compressed) error {
	c.followed = l.Followed
	for _, e := range l.Entries {
		f := &file{name: e.Name, size: e.Size, link: e.Link, unusable: e.Unusable, packed: e.Packed, digest: e.Digest, sniffed: true}
		if err := c.insert(f); err != nil {
			return err
		}
		if e.Content != nil {
			c.kept[f] = e.Content
		}
	}
	return nil
}

// restoreDigests tells the files of a plain archive their digests.
func (l *Listing) restoreDigests(t *table) {
	for _, e := range l.Entries {
		if f, ok := t.find(e.Name); ok && f.size == e.Size {
			f.digest = e.Digest
		}
	}
}
