// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/berth-edge/berth/resolver/credential"
	"github.com/berth-edge/berth/resolver/credential/helpertest"
)

// C8: pulls at once share one run, whatever they pull.
func TestHelperInAStorm(t *testing.T) {
	h, source := dockerHelper(t, helpertest.Script{Stdout: secretAnswer, Sleep: 200 * time.Millisecond})
	k := source.Keychain()
	var pulls sync.WaitGroup
	for i := range 200 {
		pulls.Go(func() {
			if got, err := ask(t, k, fmt.Sprintf("reg.test/app%d", i)); err != nil || got != "canary-user:hunter2" {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	pulls.Wait()
	if got := len(h.Runs(t)); got != 1 {
		t.Errorf("got %d runs, want 1", got)
	}
}

// C9: a credential that was refused is fetched anew, once for all who say so.
func TestHelperIsAskedAnew(t *testing.T) {
	h, source := dockerHelper(t, helpertest.Script{Stdout: secretAnswer})
	k := source.Keychain()
	refused, err := k.Credential(t.Context(), "reg.test/app", credential.Credential{})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := k.Credential(t.Context(), "reg.test/other", credential.Credential{}); err != nil || again != refused || len(h.Runs(t)) != 1 {
		t.Fatalf("got %s, %v after %d runs, want what is remembered", shown(again), err, len(h.Runs(t)))
	}
	h.Script(t, helpertest.Script{Stdout: `{"Username":"canary-user","Secret":"rotated"}`})
	for range 10 {
		if got, err := k.Credential(t.Context(), "reg.test/app", refused); err != nil || shown(got) != "canary-user:rotated" {
			t.Fatalf("got %s, %v, want the new one", shown(got), err)
		}
	}
	if got := len(h.Runs(t)); got != 2 {
		t.Errorf("got %d runs, want 2", got)
	}
	// It is asked no more than once in five seconds for what is refused again and again.
	rotated := credential.Credential{Username: "canary-user", Password: "rotated"}
	for range 10 {
		if got, err := k.Credential(t.Context(), "reg.test/app", rotated); err != nil || got != rotated {
			t.Fatalf("got %s, %v", shown(got), err)
		}
	}
	if got := len(h.Runs(t)); got != 2 {
		t.Errorf("got %d runs, want 2", got)
	}
}

// A storm of a hundred pulls: how often a helper runs for it, cold and with what is remembered.
func BenchmarkHelperStorm(b *testing.B) {
	h, source := dockerHelper(b, helpertest.Script{Stdout: secretAnswer})
	k := source.Keychain()
	const pulls = 100
	var storms int
	for b.Loop() {
		storms++
		var storm sync.WaitGroup
		for i := range pulls {
			storm.Go(func() {
				if _, err := k.Credential(b.Context(), fmt.Sprintf("reg.test/app%d", i), credential.Credential{}); err != nil {
					b.Error(err)
				}
			})
		}
		storm.Wait()
	}
	runs := len(h.Runs(b))
	b.ReportMetric(float64(runs), "runs")
	b.ReportMetric(float64(pulls*storms)/float64(runs), "pulls/run")
}
