// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"reflect"
	"time"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/endpoint"
)

// A Registry is one configured registry. Its credential and certificates go to it and to nothing else.
type Registry struct {
	// Domain is where it is: host[:port][/path]. References below it get its credential.
	Domain Prefix
	// Name is what people call it, "" for nothing but its domain. It is for the log alone, and no part of any reference.
	Name string
	// Credential is what authenticates to it. The zero value is none.
	Credential credential.Source
	// Endpoint is how it is reached: certificates, proxy, time limits.
	Endpoint endpoint.Options
}

// Config is what an operator configured, checked and normalised. The zero value leaves every pull alone.
type Config struct {
	Registries []Registry
	Rules      []Rule
	// DialTimeout bounds one connection attempt. Zero is 5 seconds.
	DialTimeout time.Duration
	// StallTimeout bounds the time in which a registry sends no byte. Zero is 60 seconds.
	StallTimeout time.Duration
	// Roots are the system's certificates; nil is those that Go reads once.
	Roots *endpoint.Roots
}

// Configured reports whether c has a rule or a registry. Without either no pull is changed.
func (c Config) Configured() bool { return len(c.Registries)+len(c.Rules) > 0 }

// Equal reports whether c and other are the same configuration, so that what was made of one serves the other.
func (c Config) Equal(other Config) bool {
	return c.Roots == other.Roots && reflect.DeepEqual(c, other) // which may not look into roots that are in use
}
