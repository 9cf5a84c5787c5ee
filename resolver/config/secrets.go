// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"os"
	"strings"

	"github.com/berth-edge/berth/resolver/permission"
	"github.com/berth-edge/berth/resolver/strict"
)

// secretFile is a file with a secret.
type secretFile struct {
	table *strict.Table
	key   string // the key that names it, or that holds the secret
	path  string
}

// checkWritable returns why a file of config_path is not to be gone by: others can write it, and so choose the registry.
func (l *loader) checkWritable(path string) error {
	if !l.inForce {
		return nil
	}
	return withoutPath(path, l.loaded.Inputs.checkWritable(path))
}

// inline notes that the table's own file holds a secret.
func (l *loader) inline(t *strict.Table, key string) {
	if !l.inStanza { // in which none is accepted
		l.secrets = append(l.secrets, secretFile{t, key, t.File()})
	}
}

// checkNamed refuses a certificate or a key that others can write: it decides whom secrets go to. An operator who looks at the
// configuration elsewhere is warned.
func (l *loader) checkNamed(t *strict.Table, key, path string) {
	if l.inForce {
		if err := l.loaded.Inputs.checkWritable(path); err != nil {
			t.Problem(key, "%v", err)
		}
	} else if err := permission.Writable(path); err != nil {
		l.warn("%v; a node refuses to go by it", err)
	}
}

// checkSecrets looks at who can read the files with secrets, each once.
func (l *loader) checkSecrets() {
	seen := map[string]bool{}
	for _, s := range l.secrets {
		if seen[s.path] {
			continue
		}
		seen[s.path] = true
		switch err := permission.Readable(s.path); {
		case err == nil, errors.Is(err, os.ErrNotExist): // it came by standard input
		case l.strict:
			s.table.Problem(s.key, "%v", err)
		default:
			l.warn("%v", err)
		}
	}
}

// withoutPath drops the path from the beginning of an error that is about the file of that path.
func withoutPath(path string, err error) error {
	if err == nil {
		return nil
	}
	if text, ok := strings.CutPrefix(err.Error(), path+" "); ok {
		return errors.New(text)
	}
	return err
}
