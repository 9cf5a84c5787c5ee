// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/berth-edge/berth/resolver/filestate"
)

// RootPaths are where a system keeps the certificates that it trusts.
type RootPaths struct {
	// Files hold many certificates each; the first that is there is read.
	Files []string
	// Dirs hold files of one certificate; all of them are read.
	Dirs []string
}

// SystemRootPaths returns the places that Go looks at on Linux (crypto/x509, root_linux.go), with the variables
// SSL_CERT_FILE and SSL_CERT_DIR in their stead.
func SystemRootPaths(getenv func(string) string) RootPaths {
	paths := RootPaths{
		Files: []string{
			"/etc/ssl/certs/ca-certificates.crt",
			"/etc/pki/tls/certs/ca-bundle.crt",
			"/etc/ssl/ca-bundle.pem",
			"/etc/pki/tls/cacert.pem",
			"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
			"/etc/ssl/cert.pem",
		},
		Dirs: []string{"/etc/ssl/certs", "/etc/pki/tls/certs"},
	}
	if file := getenv("SSL_CERT_FILE"); file != "" {
		paths.Files = []string{file}
	}
	if dirs := getenv("SSL_CERT_DIR"); dirs != "" {
		paths.Dirs = strings.Split(dirs, ":")
	}
	return paths
}

// Roots are the system's certificates as they are when they are first needed. Go reads them once in the life of a process,
// so that a changed set wants new Roots. They are safe for concurrent use; nil is what Go has.
type Roots struct {
	paths   RootPaths
	once    sync.Once
	pool    *x509.CertPool
	were    [sha256.Size]byte // the files of Dirs when they were read
	isRead  atomic.Bool
	changed atomic.Bool
}

// NewRoots returns the certificates at paths. Nothing is read yet: a daemon that does not pull need not hold them.
func NewRoots(paths RootPaths) *Roots { return &Roots{paths: paths} }

// with returns the pool with certificates added; nil, which is Go's own, if there are none of either.
func (r *Roots) with(added []*x509.Certificate) *x509.CertPool {
	var pool *x509.CertPool
	switch {
	case r != nil:
		pool = r.Pool()
	case len(added) == 0:
		return nil
	default:
		pool, _ = x509.SystemCertPool()
	}
	// A system may have none; the registry's own certificates may do.
	pool = cmp.Or(pool, x509.NewCertPool())
	if len(added) == 0 {
		return pool
	}
	pool = pool.Clone()
	for _, cert := range added {
		pool.AddCert(cert)
	}
	return pool
}

// Pool returns the certificates, and reads them the first time. It may be empty.
func (r *Roots) Pool() *x509.CertPool {
	r.once.Do(r.read)
	return r.pool
}

// Look looks at every file of Dirs, unless none was read yet, and reports whether one is another since. A directory does not say that
// a file in it is written in place, or where a link in it leads; hundreds of files are too many for every pull: see [Roots.Changed].
func (r *Roots) Look() (changed bool) {
	if r.isRead.Load() && r.paths.filesOfDirs() != r.were {
		r.changed.Store(true)
	}
	return r.Changed()
}

// Changed reports whether [Roots.Look] saw a change.
func (r *Roots) Changed() bool { return r.changed.Load() }

// read fills the pool. Like Go it takes what it finds, and leaves out what is no certificate.
func (r *Roots) read() {
	defer r.isRead.Store(true)
	r.were = r.paths.filesOfDirs()
	r.pool = x509.NewCertPool()
	for _, file := range r.paths.Files {
		if text, err := os.ReadFile(file); err == nil {
			r.pool.AppendCertsFromPEM(text)
			break
		}
	}
	for _, dir := range r.paths.Dirs {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			if text, err := os.ReadFile(filepath.Join(dir, entry.Name())); err == nil {
				r.pool.AppendCertsFromPEM(text)
			}
		}
	}
}

// filesOfDirs tells one state of all files of Dirs from another. Links are followed.
func (p RootPaths) filesOfDirs() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, dir := range p.Dirs {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			fmt.Fprintf(h, "%q %+v\n", path, filestate.Of(path))
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}
