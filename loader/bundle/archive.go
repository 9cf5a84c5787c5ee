// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// table is the entries of an archive.
type table struct {
	list    []*file
	byName  map[string]*file
	again   []*file // entries of a name that another has, see sameAgain
	entries int
	names   int
	// followed says that another archive stands behind the end of this one.
	followed bool
}

func (t *table) find(name string) (*file, bool) {
	f, ok := t.byName[name]
	return f, ok
}

func (t *table) all() []*file { return t.list }

func (t *table) isFollowed() bool { return t.followed }

// add adds the entry of hdr. It returns nil for a directory.
func (t *table) add(hdr *tar.Header) (*file, error) {
	t.entries++
	t.names += len(hdr.Name) + len(hdr.Linkname)
	switch {
	case t.entries > maxFiles:
		return nil, fmt.Errorf("more than %d entries", maxFiles)
	case len(hdr.Name) > maxName:
		return nil, fmt.Errorf("entry %q...: its name has %d bytes, more than %d", hdr.Name[:64], len(hdr.Name), maxName)
	case t.names > maxNames:
		return nil, fmt.Errorf("the names of its entries come to more than %d MiB", maxNames>>20)
	case hdr.Typeflag == tar.TypeDir, hdr.Typeflag == tar.TypeXGlobalHeader:
		return nil, nil
	}
	f := &file{name: strings.Clone(path.Clean(hdr.Name)), size: hdr.Size}
	f.link, f.unusable = contentOf(hdr)
	if _, ok := t.byName[f.name]; ok && configName().MatchString(f.name) {
		t.again = append(t.again, f)
		return f, nil
	}
	return f, t.insert(f)
}

// isAgain reports whether another entry has the name of f.
func (t *table) isAgain(f *file) bool { return t.byName[f.name] != f }

// configName matches the names of configurations in docker-save archives, which say their digest.
var configName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:sha256:)?[0-9a-f]{64}(?:\.json)?$`) })

// sameAgain reports a configuration that another has the name of, and that differs. crane writes that of an image once for each of
// its tags. Two entries of any other name are refused where they are added: it depends on the reader which of them counts.
func (t *table) sameAgain(ctx context.Context, open func(context.Context, *file) (io.ReadCloser, error)) error {
	for _, f := range t.again {
		first := t.byName[f.name]
		same := first.size == f.size && first.link == f.link && first.unusable == f.unusable
		for _, f := range []*file{first, f} {
			if !same || f.unusable != "" || f.digest != "" {
				continue
			}
			r, err := open(ctx, f)
			if err != nil {
				return inEntry(f.name, err)
			}
			f.digest, err = hash(ctx, digest.SHA256, r)
			r.Close()
			if err != nil {
				return inEntry(f.name, err)
			}
		}
		if !same || first.digest != f.digest {
			return fmt.Errorf("two entries are named %q, and differ", f.name)
		}
	}
	t.again = nil
	return nil
}

func (t *table) insert(f *file) error {
	if t.byName == nil {
		t.byName = map[string]*file{}
	}
	if _, ok := t.byName[f.name]; ok {
		return fmt.Errorf("two entries are named %q", f.name)
	}
	t.byName[f.name] = f
	t.list = append(t.list, f)
	return nil
}

// contentOf returns the target of a symbolic link, and says why an entry has no content of its own.
func contentOf(hdr *tar.Header) (link, unusable string) {
	switch hdr.Typeflag {
	case tar.TypeReg:
		for key := range hdr.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return "", "is a sparse entry, which is not supported; pack it without --sparse"
			}
		}
		return "", ""
	case tar.TypeSymlink:
		return strings.Clone(hdr.Linkname), "is a symbolic link"
	case tar.TypeLink:
		return "", fmt.Sprintf("is a hard link to %q, which is not supported; pack it with --hard-dereference", hdr.Linkname)
	case tar.TypeGNUSparse:
		return "", "is a sparse entry, which is not supported; pack it without --sparse"
	}
	return "", fmt.Sprintf("is no regular file (tar type %q)", hdr.Typeflag)
}

// archive is a plain tar, read at the offsets of its entries.
type archive struct {
	table
	*held[*os.File]
	// ended says that the end mark was there. Without it the file may have been cut off between two entries.
	ended bool
}

// openArchive reads the headers of f and seeks over what is between them.
func openArchive(ctx context.Context, f *held[*os.File], size int64) (*archive, error) {
	a := &archive{held: f}
	file, release, err := f.take()
	if err != nil {
		return nil, err
	}
	defer release()
	in := io.NewSectionReader(steady{file}, 0, size)
	tr := tar.NewReader(in)
	last := ""
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			a.ended, a.followed = endMark(in), isFollowed(in)
			return a, a.sameAgain(ctx, a.open)
		}
		offset, _ := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, headerError(err, last, size, offset)
		}
		last = hdr.Name
		entry, err := a.add(hdr)
		if err != nil {
			return nil, err
		}
		if entry == nil || entry.unusable != "" {
			continue
		}
		if entry.offset = offset; entry.size > size-offset {
			return nil, fmt.Errorf("entry %q: file is %d bytes, needs at least %d; copy incomplete?",
				entry.name, size, needed(offset, entry.size))
		}
	}
}

// needed returns the length of an archive that has size bytes of content at offset, with padding and end mark.
func needed(offset, size int64) uint64 {
	return (uint64(offset)+uint64(size)+511)/512*512 + 1024
}

// endMark reports whether in, which was read up to its end, stands behind a block of zeros.
func endMark(in *io.SectionReader) bool {
	block := make([]byte, 512)
	offset, _ := in.Seek(0, io.SeekCurrent)
	_, err := in.ReadAt(block, offset-512)
	return err == nil && bytes.Count(block, []byte{0}) == len(block)
}

// isFollowed reports whether another archive begins soon after the end of one, as where somebody joined two with cat. No reader of
// tar looks there.
func isFollowed(r io.Reader) bool {
	block := make([]byte, 512)
	for range 128 {
		if _, err := io.ReadFull(r, block); err != nil {
			return false
		}
		if bytes.Count(block, []byte{0}) < len(block) {
			return isTar(block)
		}
	}
	return false
}

// headerError says where an archive cannot be followed any further.
func headerError(err error, last string, size, offset int64) error {
	where := "the first entry"
	if last != "" {
		where = fmt.Sprintf("the entry after %.128q", last)
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("file is %d bytes and ends within %s; copy incomplete?", size, where)
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("%s: %w before byte %d; copy incomplete or damaged?", where, err, offset)
	}
	return fmt.Errorf("%s: %w", where, err)
}

func (a *archive) open(_ context.Context, f *file) (io.ReadCloser, error) {
	file, release, err := a.take()
	if err != nil {
		return nil, err
	}
	return &section{SectionReader: io.NewSectionReader(steady{file}, f.offset, f.size), close: release}, nil
}
