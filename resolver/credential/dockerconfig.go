// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// maxDockerConfig is the size above which a config.json is taken for a mistake.
const maxDockerConfig = 1 << 20

// dockerConfig is docker's config.json, or containers' auth.json.
type dockerConfig struct {
	auths   map[string]Credential // by [dockerKey]
	helpers map[string]string     // credHelpers: names by host
	store   string                // credsStore: the name of the helper for all hosts
}

// parseDockerConfig reads a config.json. Its errors name the key, and quote no value.
func parseDockerConfig(data []byte) (dockerConfig, error) {
	c := dockerConfig{auths: map[string]Credential{}, helpers: map[string]string{}}
	err := fields(data, map[string]func(json.RawMessage) error{
		"auths":       func(raw json.RawMessage) error { return c.readAuths(raw) },
		"credHelpers": func(raw json.RawMessage) error { return c.readHelpers(raw) },
		"credsStore": func(raw json.RawMessage) error {
			if err := text(&c.store)(raw); err != nil || c.store == "" {
				return err
			}
			return CheckProgram(c.store)
		},
	})
	return c, err
}

func (c dockerConfig) readAuths(raw json.RawMessage) error {
	list, err := members(raw)
	if err != nil {
		return err
	}
	first := map[string]string{}
	for _, m := range list {
		cred, err := parseAuth(m.value)
		if err != nil {
			return fmt.Errorf("[%q]%w", m.key, err)
		}
		key := dockerKey(m.key)
		if before, ok := first[key]; ok && (before == m.key || c.auths[key] != cred) {
			return fmt.Errorf("[%q]: is the same registry as %q; keep one of them", m.key, before)
		}
		first[key] = m.key
		if !cred.IsZero() { // an empty entry says that a helper has it
			c.auths[key] = cred
		}
	}
	return nil
}

// parseAuth reads one entry of auths.
func parseAuth(raw json.RawMessage) (Credential, error) {
	var auth, username, password, identity, registry string
	if _, err := members(raw); err != nil {
		return Credential{}, fmt.Errorf(": %w", err)
	}
	err := fields(raw, map[string]func(json.RawMessage) error{
		"auth": text(&auth), "username": text(&username), "password": text(&password),
		"identitytoken": text(&identity), "registrytoken": text(&registry),
	})
	if err != nil {
		return Credential{}, fmt.Errorf(".%w", err)
	}
	if auth = strings.TrimSpace(auth); auth != "" {
		user, pass, err := decodeAuth(auth)
		if err != nil {
			return Credential{}, fmt.Errorf(".auth: %w", err)
		}
		if username != "" && username != user || password != "" && password != pass {
			return Credential{}, errors.New(": username and password are other than those of auth; keep one of them")
		}
		username, password = user, pass
	}
	return choose(username, password, identity, registry)
}

// choose makes a credential of the one kind that an entry has. Docker writes a username that means nothing, without a
// password, beside an identity token.
func choose(username, password, identity, registry string) (Credential, error) {
	given := 0
	for _, s := range []string{password, identity, registry} {
		if s != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return Credential{}, errors.New(": has more than one of a password, identitytoken and registrytoken; keep one of them")
	case identity != "":
		return newCredential(IdentityToken, identity, "", ".identitytoken")
	case registry != "":
		return newCredential(RegistryToken, registry, "", ".registrytoken")
	case username == "" && password == "":
		return Credential{}, nil
	}
	return newCredential(username, password, ": username", ": password")
}

// decodeAuth takes apart base64 of user:password, padded or not: kubelet reads both. A password may have colons.
func decodeAuth(auth string) (username, password string, err error) {
	decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(auth, "="))
	if err != nil {
		return "", "", errors.New("is not base64")
	}
	username, password, ok := strings.Cut(string(decoded), ":")
	if !ok {
		return "", "", errors.New("has no colon; want base64 of user:password")
	}
	return username, strings.Trim(password, "\x00"), nil // docker pads with it
}

func (c dockerConfig) readHelpers(raw json.RawMessage) error {
	list, err := members(raw)
	if err != nil {
		return err
	}
	for _, m := range list {
		var name string
		if err := text(&name)(m.value); err != nil {
			return fmt.Errorf("[%q]: %w", m.key, err)
		}
		if err := CheckProgram(name); err != nil {
			return fmt.Errorf("[%q]: %w", m.key, err)
		}
		host := keyHost(m.key)
		if before, ok := c.helpers[host]; ok && before != name {
			return fmt.Errorf("[%q]: is given twice, with other helpers", m.key)
		}
		c.helpers[host] = name
	}
	return nil
}

// find returns the credential for image, or the name of the helper that has it: the helper for the host, else the entry of
// the longest path, else the helper for all. Both are zero if there is none.
func (c dockerConfig) find(image string) (Credential, string) {
	if name, ok := c.helpers[keyHost(image)]; ok {
		return Credential{}, name
	}
	for _, key := range parents(image) {
		if cred, ok := c.auths[key]; ok {
			return cred, ""
		}
	}
	return Credential{}, c.store
}

// programs are the names of all helpers.
func (c dockerConfig) programs() []string {
	names := slices.Collect(maps.Values(c.helpers))
	if c.store != "" {
		names = append(names, c.store)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// dockerKeychain is a config.json, and the helpers that it names.
type dockerKeychain struct {
	file     *file[dockerConfig]
	programs *programs

	mu      sync.Mutex
	helpers map[string]*shared
}

var (
	_ Versioned = (*dockerKeychain)(nil)
	_ Troubled  = (*dockerKeychain)(nil)
)

// Trouble implements [Troubled].
func (k *dockerKeychain) Trouble(ctx context.Context) (Trouble, bool) { return k.file.trouble(ctx) }

// Version implements [Versioned].
func (k *dockerKeychain) Version(ctx context.Context) int { return k.file.version(ctx) }

// Credential implements [Keychain].
func (k *dockerKeychain) Credential(ctx context.Context, image string, refused Credential) (Credential, error) {
	c, err := k.file.read(ctx)
	if err != nil {
		return Credential{}, err
	}
	cred, name := c.find(image)
	if name == "" {
		return cred, nil
	}
	return k.helper(name).Credential(ctx, image, refused)
}

func (k *dockerKeychain) helper(name string) *shared {
	k.mu.Lock()
	defer k.mu.Unlock()
	h, ok := k.helpers[name]
	if !ok {
		h = newShared(dockerHelper{k.programs, name}.ask)
		k.helpers[name] = h
	}
	return h
}
