// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package registrytest is a registry that a test scripts: real servers on loopback that write down what they were asked.
//
//	image := registrytest.NewImage("canary", 1<<20)
//	tokens := registrytest.NewTokens("user", "secret")
//	registry := registrytest.Registry{Image: image}
//	server := registrytest.Serve(t, authority.Server(t, "127.0.0.1"), tokens.Protect(registry))
//
// What a registry does wrong is a handler around another one. What a test asserts is in [Server.Requests],
// [Server.Received] and [Server.Connections]: what was asked, what was sent, and whether anybody came at all.
package registrytest
