// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// H6: files of which the directory is switched while they are read, at the start or later, are read as they were at one time.
func TestFilesAreOfOneVersion(t *testing.T) {
	dir := t.TempDir()
	switchTo := func(i int) error {
		version := filepath.Join(dir, fmt.Sprint("..", i))
		if err := os.Mkdir(version, 0o700); err != nil {
			return err
		}
		for _, from := range []string{"a", "b", "c"} {
			text := fmt.Sprintf("[[rules]]\nfrom = \"%s.io\"\nto = [\"v%d.io\"]\n", from, i)
			if err := os.WriteFile(filepath.Join(version, from+".toml"), []byte(text), 0o600); err != nil {
				return err
			}
		}
		if err := os.Symlink(filepath.Base(version), dir+"/..tmp"); err != nil {
			return err
		}
		if err := os.Rename(dir+"/..tmp", dir+"/..data"); err != nil {
			return err
		}
		return os.RemoveAll(filepath.Join(dir, fmt.Sprint("..", i-1)))
	}
	if err := switchTo(1); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"a", "b", "c"} {
		if err := os.Symlink("..data/"+from+".toml", dir+"/"+from+".toml"); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 2; i < 200 && err == nil; i++ {
			err = switchTo(i)
			time.Sleep(5 * time.Millisecond)
		}
		done <- err
	}()
	later, ctx, _ := newResolver(t, dir+"/*.toml")
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
		start, _, _ := newResolver(t, dir+"/*.toml")
		for when, s := range map[string]State{"start": start.State(), "later": later.Load(ctx)} {
			if s.Err != nil {
				t.Errorf("%s: got %v, want rules", when, s.Err)
			}
			for _, rule := range s.Rules {
				if rule.To[0] != s.Rules[0].To[0] {
					t.Errorf("%s: got rules of two versions: %v", when, s.Rules)
					break
				}
			}
		}
		if t.Failed() {
			<-done
			return
		}
	}
}
