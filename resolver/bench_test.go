// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package resolver_test

import (
	"fmt"
	"testing"

	"github.com/berth-edge/berth/resolver"
)

// manyRules are n rules of every kind, and a reference that a path rule in their middle matches.
func manyRules(tb testing.TB, n int) (*resolver.Routes, string) {
	tb.Helper()
	kinds := []string{"h%d.example.com", "h%d.example.com/team/app", "*.d%d.example.com", "h%d.example.com/team/tool:v1"}
	rules := make([]resolver.Rule, 0, n)
	for i := range n {
		rule, err := resolver.ParseRule(resolver.Rule{From: fmt.Sprintf(kinds[i%len(kinds)], i), To: []string{"r.example.net/all"}})
		if err != nil {
			tb.Fatal(err)
		}
		rules = append(rules, rule)
	}
	routes, err := resolver.NewRoutes(resolver.Config{Rules: rules})
	if err != nil {
		tb.Fatal(err)
	}
	middle := n / 2
	middle -= middle%len(kinds) - 1
	return routes, fmt.Sprintf("h%d.example.com/team/app/server:v1.25.2", middle)
}

func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000} {
		routes, ref := manyRules(b, n)
		if got := routes.Route(b.Context(), ref); got.Err != nil || got.Targets[0].Pull.Name() != "r.example.net/all/server" {
			b.Fatalf("got route %v of %s", got, ref)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				routes.Route(b.Context(), ref)
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000} {
		routes, ref := manyRules(b, n)
		named, err := resolver.ParseNamed(ref)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := routes.Match(named); !ok {
					b.Fatal("got no rule")
				}
			}
		})
	}
}

func BenchmarkParseNamed(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := resolver.ParseNamed("h1.example.com/team/app/server:v1.25.2"); err != nil {
			b.Fatal(err)
		}
	}
}
