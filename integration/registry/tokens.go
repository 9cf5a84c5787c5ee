// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Tokens makes a registry ask for bearer tokens, and is the server that issues them: GET with basic authentication,
// and POST with the OAuth 2 grants "password" and "refresh_token".
//
// A token carries only those of the requested scopes that its user may have, so that the registry itself refuses a
// token that was asked for with the wrong scope.
type Tokens struct {
	Users  map[string]User // by name
	Anyone []string        // scopes that need no user, patterns as in [User]
	Expiry time.Duration   // how long a token is accepted; 5 minutes by default

	// Elsewhere runs the token server on a listener of its own. By default it is /token of the registry, under the
	// very name that the client used.
	Elsewhere bool

	// Realm is sent in challenges in place of the server's own address.
	Realm string

	key *ecdsa.PrivateKey
}

// User is somebody who may have tokens.
type User struct {
	Password string
	Identity string   // identity (refresh) token accepted in place of the password; handed out with a password login
	Scopes   []string // such as "repository:internal/*:pull"; * stands for any text, slashes included
}

const (
	tokenPath    = "/token"
	tokenService = "test-registry"
	tokenIssuer  = "test-issuer"
	tokenKey     = "test-key"
)

// prepare makes the signing key and writes its public half for the registry to the file jwks.
func (t *Tokens) prepare(jwks string) (err error) {
	if t.Expiry == 0 {
		t.Expiry = 5 * time.Minute
	}
	if t.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &t.key.PublicKey, KeyID: tokenKey, Algorithm: string(jose.ES256), Use: "sig"},
	}})
	if err != nil {
		return err
	}
	return os.WriteFile(jwks, set, 0o600)
}

// ServeHTTP answers a token request.
func (t *Tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	name, offline, ok := t.authenticate(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, "authentication required")
		return
	}
	var scopes []string
	for _, scope := range r.Form["scope"] {
		scopes = append(scopes, strings.Fields(scope)...)
	}
	text, err := t.sign(name, t.grant(name, scopes))
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	answer := map[string]any{
		"token": text, "access_token": text, "expires_in": int(t.Expiry.Seconds()),
		"issued_at": time.Now().UTC().Format(time.RFC3339),
	}
	if offline {
		answer["refresh_token"] = t.Users[name].Identity
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// authenticate returns the user, "" for nobody, and whether an identity token is asked for and can be had.
func (t *Tokens) authenticate(r *http.Request) (name string, offline, ok bool) {
	var password string
	switch {
	case r.Method == http.MethodPost && r.Form.Get("grant_type") == "refresh_token":
		for name, user := range t.Users {
			if user.Identity != "" && user.Identity == r.Form.Get("refresh_token") {
				return name, false, true
			}
		}
		return "", false, false
	case r.Method == http.MethodPost && r.Form.Get("grant_type") == "password":
		name, password = r.Form.Get("username"), r.Form.Get("password")
		offline = r.Form.Get("access_type") == "offline"
	case r.Method == http.MethodGet:
		var given bool
		if name, password, given = r.BasicAuth(); !given {
			return "", false, true
		}
		offline = r.Form.Get("offline_token") == "true"
	default:
		return "", false, false
	}
	user, found := t.Users[name]
	return name, offline && user.Identity != "", found && user.Password == password
}

// grant returns the part of the scopes that the user may have.
func (t *Tokens) grant(name string, scopes []string) []*token.ResourceActions {
	allowed := append(slices.Clone(t.Anyone), t.Users[name].Scopes...)
	access := []*token.ResourceActions{}
	for _, scope := range scopes {
		// A repository may begin with host:port, so the actions are what follows the last colon.
		kind, rest, _ := strings.Cut(scope, ":")
		i := strings.LastIndexByte(rest, ':')
		if i < 0 {
			continue
		}
		granted := &token.ResourceActions{Type: kind, Name: rest[:i]}
		for action := range strings.SplitSeq(rest[i+1:], ",") {
			if slices.ContainsFunc(allowed, func(pattern string) bool {
				head, actions := pattern[:strings.LastIndexByte(pattern, ':')], pattern[strings.LastIndexByte(pattern, ':')+1:]
				return glob(head, kind+":"+rest[:i]) && slices.Contains(strings.Split(actions, ","), action)
			}) {
				granted.Actions = append(granted.Actions, action)
			}
		}
		if len(granted.Actions) > 0 {
			access = append(access, granted)
		}
	}
	return access
}

func (t *Tokens) sign(name string, access []*token.ResourceActions) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: t.key},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", tokenKey))
	if err != nil {
		return "", err
	}
	now := time.Now()
	return jwt.Signed(signer).Claims(token.ClaimSet{
		Issuer: tokenIssuer, Subject: name, Audience: token.AudienceList{tokenService},
		// The registry's leeway is taken off, or a token of a few seconds would be good for a minute.
		Expiration: now.Add(t.Expiry - token.Leeway).Unix(),
		NotBefore:  now.Add(-time.Minute).Unix(), IssuedAt: now.Unix(), JWTID: rand.Text(), Access: access,
	}).Serialize()
}

func refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"errors": []map[string]string{{"code": strings.ToUpper(strings.ReplaceAll(http.StatusText(status), " ", "")), "message": why}},
	})
}
