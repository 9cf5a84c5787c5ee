// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	helperPrefix = "docker-credential-"
	// helperLife is how long the answer of a docker credential helper is used: the protocol has no lifetime.
	helperLife = 5 * time.Minute
	// hubServer is how docker names Docker Hub to helpers, and in its config.json.
	hubServer = "https://index.docker.io/v1/"
)

// dockerHelper speaks the protocol of docker-credential-helpers: `get`, the server on the standard input, and JSON on the
// standard output (github.com/docker/docker-credential-helpers, credentials.go).
type dockerHelper struct {
	programs *programs
	name     string // without docker-credential-
}

// ask is for [shared].
func (h dockerHelper) ask(ctx context.Context, image string) (answer, error) {
	host := hostOf(image)
	name := helperPrefix + h.name
	if err := checkHost(host); err != nil {
		return answer{}, fmt.Errorf("helper %q: %w", name, err)
	}
	server := host
	if isHub(host) {
		server = hubServer
	}
	stdout, err := h.programs.run(ctx, invocation{program: name, args: []string{"get"}, stdin: server})
	cred := Credential{}
	var exited *exitError
	switch {
	case errors.As(err, &exited):
		err = exited.known(name, host)
	case err == nil:
		if cred, err = parseHelperOutput([]byte(stdout), host); err != nil {
			err = fmt.Errorf("helper %q: %w", name, err)
		}
	}
	if err != nil {
		return answer{}, err
	}
	keep := helperLife
	if cred.IsZero() {
		keep = negative
	}
	return answer{forRegistry, keep, func(string) Credential { return cred }}, nil
}

// Messages of the protocol, on the standard output of a helper that fails (credentials/error.go there).
const (
	messageNotFound    = "credentials not found in native keychain"
	messageNoServer    = "no credentials server URL"
	messageNoUsername  = "no credentials username"
	messageNotFoundMac = "The specified item could not be found in the keychain." // of older helpers
)

// known returns nil where the helper says that it has no credential: an anonymous pull. Anything else that it says on its
// standard output is not repeated.
func (e *exitError) known(name, host string) error {
	switch said := strings.TrimSpace(e.stdout); said {
	case messageNotFound, messageNotFoundMac:
		return nil
	case messageNoServer, messageNoUsername:
		return fmt.Errorf("helper %q: it says %q for %s", name, said, host)
	}
	return e
}

// parseHelperOutput reads the answer of a helper that was asked for host. Its errors quote nothing but a host.
func parseHelperOutput(out []byte, host string) (Credential, error) {
	var server, username, secret string
	err := fields(out, map[string]func(json.RawMessage) error{
		"ServerURL": text(&server), "Username": text(&username), "Secret": text(&secret),
	})
	if err != nil {
		return Credential{}, fmt.Errorf("answer: %w", err)
	}
	if server != "" && !sameHost(server, host) {
		if other := keyHost(server); hostPattern().MatchString(other) {
			return Credential{}, fmt.Errorf("it answered for %q, asked %q", other, host)
		}
		return Credential{}, fmt.Errorf("it answered for another server, asked %q", host)
	}
	return newCredential(username, secret, "answer: Username", "answer: Secret")
}

// newCredential checks a pair that somebody else wrote. The names are those of its two parts, for errors.
func newCredential(username, secret, usernameKey, secretKey string) (Credential, error) {
	if username == "" {
		return Credential{}, fmt.Errorf("%s: is empty", usernameKey)
	}
	if strings.ContainsAny(username, ":\r\n\x00") {
		return Credential{}, fmt.Errorf("%s: has a colon or a control character, which a registry cannot be sent (RFC 7617)", usernameKey)
	}
	if err := CheckPassword(username, secret); err != nil {
		return Credential{}, fmt.Errorf("%s: %w", secretKey, err)
	}
	return Credential{username, Secret(secret)}, nil
}

// checkHost refuses what could be read as something else than one host by a helper (CVE-2020-5260, CVE-2020-11008 of git).
func checkHost(host string) error {
	if host == "" || strings.ContainsAny(host, "\r\n\x00 \t@/\\") {
		return fmt.Errorf("it is not asked for %q, which is not a host", host)
	}
	return nil
}

// hostPattern is what a host in an error may look like.
var hostPattern = pattern(`^[A-Za-z0-9.:\[\]-]{1,255}$`)

// sameHost reports whether what a helper or a file calls a server is host.
func sameHost(server, host string) bool {
	return keyHost(server) == keyHost(host)
}
