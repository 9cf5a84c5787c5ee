// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// providerVersions are those of kubelet's credential provider API; their request and response are the same.
var providerVersions = []string{
	"credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1beta1", "credentialprovider.kubelet.k8s.io/v1alpha1",
}

// A Provider is a program that speaks kubelet's credential provider exec API, as kubelet's CredentialProvider configures
// it. The zero value is none.
type Provider struct {
	// Program is a name in one of the [Source.HelperDirs], or an absolute path.
	Program string
	// Args and Env (NAME=VALUE) are lists, see [List]. The program gets no other variables but those of every helper.
	Args string
	Env  Secret
	// MatchImages is a list of patterns: an image that none matches has no credential. Empty is every image.
	MatchImages string
	// DefaultCacheDuration is how long an answer without a cacheDuration is used. Zero is 5 minutes; a negative one is not at
	// all.
	DefaultCacheDuration time.Duration
	// APIVersion is what is spoken. Empty is credentialprovider.kubelet.k8s.io/v1.
	APIVersion string
}

// List writes texts as one, so that a [Source] can be compared: each ends with a NUL, as in /proc/PID/cmdline.
func List(texts ...string) string {
	var b strings.Builder
	for _, t := range texts {
		b.WriteString(t + "\x00")
	}
	return b.String()
}

func listed(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(list, "\x00"), "\x00")
}

// check reports what can never work.
func (p Provider) check() error {
	if p.APIVersion != "" && !slices.Contains(providerVersions, p.APIVersion) {
		return fmt.Errorf("api_version: %q is not known; want one of %s", p.APIVersion, strings.Join(providerVersions, ", "))
	}
	for _, pattern := range listed(p.MatchImages) {
		if err := checkPattern(pattern); err != nil {
			return fmt.Errorf("match_images: %q: %w", pattern, err)
		}
	}
	return nil
}

func (p Provider) version() string {
	if p.APIVersion == "" {
		return providerVersions[0]
	}
	return p.APIVersion
}

func (p Provider) life() time.Duration {
	switch {
	case p.DefaultCacheDuration == 0:
		return helperLife
	case p.DefaultCacheDuration < 0:
		return 0
	}
	return p.DefaultCacheDuration
}

// providerKeychain is a provider, asked for the images that it is for.
type providerKeychain struct {
	provider Provider
	patterns []string
	programs *programs
	shared   *shared
}

var _ Keychain = (*providerKeychain)(nil)

func newProviderKeychain(p Provider, programs *programs) *providerKeychain {
	k := &providerKeychain{provider: p, patterns: listed(p.MatchImages), programs: programs}
	k.shared = newShared(k.ask)
	return k
}

// Credential implements [Keychain].
func (k *providerKeychain) Credential(ctx context.Context, image string, refused Credential) (Credential, error) {
	if len(k.patterns) > 0 && !slices.ContainsFunc(k.patterns, func(p string) bool { return matchImage(p, image) }) {
		return Credential{}, nil
	}
	return k.shared.Credential(ctx, image, refused)
}

// ask is for [shared].
func (k *providerKeychain) ask(ctx context.Context, image string) (answer, error) {
	name := programBase(k.provider.Program)
	if err := checkHost(hostOf(image)); err != nil {
		return answer{}, fmt.Errorf("helper %q: %w", name, err)
	}
	request, err := json.Marshal(map[string]string{"kind": "CredentialProviderRequest", "apiVersion": k.provider.version(), "image": image})
	if err != nil {
		return answer{}, err
	}
	stdout, err := k.programs.run(ctx, invocation{
		program: k.provider.Program, args: listed(k.provider.Args), env: listed(k.provider.Env.Reveal()), stdin: string(request),
	})
	if err != nil {
		return answer{}, err
	}
	a, err := parseProviderResponse([]byte(stdout), k.provider.version(), k.provider.life())
	if err != nil {
		return answer{}, fmt.Errorf("helper %q: answer: %w", name, err)
	}
	return a, nil
}

// parseProviderResponse reads a CredentialProviderResponse as kubelet does (k8s.io/kubernetes,
// pkg/credentialprovider/plugin/plugin.go). Life is for one that has no cacheDuration. Errors quote no value but a version.
func parseProviderResponse(out []byte, version string, life time.Duration) (answer, error) {
	var kind, apiVersion, keyType, duration string
	auth := map[string]Credential{}
	err := fields(out, map[string]func(json.RawMessage) error{
		"kind": text(&kind), "apiVersion": text(&apiVersion), "cacheKeyType": text(&keyType), "cacheDuration": text(&duration),
		"auth": func(raw json.RawMessage) error { return readProviderAuth(raw, auth) },
	})
	if err != nil {
		return answer{}, err
	}
	if kind != "CredentialProviderResponse" {
		return answer{}, errors.New("kind: is not CredentialProviderResponse")
	}
	if apiVersion != version {
		return answer{}, fmt.Errorf("apiVersion: %s, want %s", knownVersion(apiVersion), version)
	}
	scope, ok := map[string]scope{"Image": forImage, "Registry": forRegistry, "Global": forAll}[keyType]
	if !ok {
		return answer{}, errors.New("cacheKeyType: is not Image, Registry or Global")
	}
	if duration != "" {
		d, err := time.ParseDuration(duration)
		if err != nil {
			return answer{}, errors.New("cacheDuration: is not a duration such as 12h0m0s")
		}
		if d < 0 {
			return answer{}, errors.New("cacheDuration: is negative; want 0s for an answer that is used once")
		}
		life = d
	}
	return answer{scope, life, func(image string) Credential { return pickAuth(auth, image) }}, nil
}

// knownVersion is a version as an error may show it.
func knownVersion(v string) string {
	if slices.Contains(providerVersions, v) {
		return fmt.Sprintf("%q", v)
	}
	return "an unknown version"
}

// readProviderAuth reads the map of patterns to passwords. An entry of two empty texts is none, as for kubelet.
func readProviderAuth(raw json.RawMessage, to map[string]Credential) error {
	list, err := members(raw)
	if err != nil {
		return err
	}
	for i, m := range list {
		var username, password string
		if err := fields(m.value, map[string]func(json.RawMessage) error{"username": text(&username), "password": text(&password)}); err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
		if _, ok := to[m.key]; ok {
			return fmt.Errorf("[%d]: its key is given twice", i)
		}
		if err := checkPattern(m.key); err != nil {
			return fmt.Errorf("[%d]: its key %w", i, err)
		}
		if username == "" && password == "" {
			to[m.key] = Credential{}
			continue
		}
		cred, err := newCredential(username, password, "username", "password")
		if err != nil {
			return fmt.Errorf("[%d].%w", i, err)
		}
		to[m.key] = cred
	}
	return nil
}
