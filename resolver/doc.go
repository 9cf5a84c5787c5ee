// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Package resolver chooses where an image is pulled from.
//
// An image keeps the name its user gave it. A [Rule] only changes where the content comes from: the most
// specific rule wins, and a reference that no rule matches is left alone. What a reference, the rules and
// the registries make together is a [Route]: the ordered targets that a pull goes through until one of
// them has the image. [Routes.Route] finds it; [Transferrer] pulls along it, and `berth explain` prints it.
//
//	registries    rules                              reference            route
//	r.io/p        (implied: * to r.io/p)             nginx                r.io/p/docker.io/library/nginx:latest
//	r.io/p        quay.io to r.io/q, source          quay.io/a/b:1        r.io/q/a/b:1, then quay.io/a/b:1
//	r.io/p        quay.io/mine to source             quay.io/mine/b:1     quay.io/mine/b:1
//	r.io/p                                           r.io/p/quay.io/b:1   r.io/p/quay.io/b:1, with r.io/p's credential
//	              gcr.io/bad denied                  gcr.io/bad/x:1       none: the pull is refused
package resolver
