// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/berth-edge/berth/resolver"
	"github.com/berth-edge/berth/resolver/config"
	"github.com/berth-edge/berth/resolver/convert"
	"github.com/berth-edge/berth/resolver/k3s"
	"github.com/berth-edge/berth/resolver/strict"
)

// Every TOML and YAML block of the documentation and every sample is read as a node, or convert, would read it.
func TestDocumentation(t *testing.T) {
	const root = ".."
	snippets := map[string]string{}
	for _, page := range []string{"README.md", "plugin/README.md", "loader/README.md", "docs/commands.md", "contrib/provider-image/README.md"} {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatch(text, -1)
		if len(blocks) == 0 {
			t.Errorf("%s: got no TOML block, want one or more", page)
		}
		for i, block := range blocks {
			snippets[fmt.Sprintf("%s block %d", page, i+1)] = string(block[1])
		}
		for i, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1) {
			t.Run(fmt.Sprintf("%s YAML block %d", page, i+1), func(t *testing.T) { readYAML(t, string(block[1])) })
		}
	}
	samples, err := filepath.Glob(filepath.Join(root, "contrib", "*.toml"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(root, "contrib", "*", "*.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if samples = append(samples, more...); len(samples) < 4 {
		t.Errorf("got %d samples in contrib, want 4 or more", len(samples))
	}
	for _, file := range samples {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		snippets[strings.TrimPrefix(file, root+"/")] = string(text)
	}
	for name, text := range snippets {
		t.Run(name, func(t *testing.T) { readAsNode(t, text) })
	}
}

// readYAML reads a cloud-config, and converts it or a registries.yaml; neither with a warning.
func readYAML(t *testing.T, text string) {
	etc := t.TempDir()
	certificate(t, etc)
	text = strings.ReplaceAll(text, "/etc/berth/", etc+"/")
	result, err := convert.Convert("snippet.yaml", []byte(text), etc, false)
	if err != nil {
		t.Fatalf("convert:\n%v", err)
	}
	if len(result.Lost) > 0 {
		t.Errorf("convert: got\n%v\nwant nothing lost", result.Lost)
	}
	if k3s.Is(strict.TopKeys([]byte(text))) {
		return
	}
	file := filepath.Join(etc, "snippet.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.LoadFile(file)
	if err != nil || !loaded.Configured() {
		t.Fatalf("read: got %+v, %v, want a configuration", loaded, err)
	}
}

// What the documentation says a conversion prints, it prints.
func TestDocumentationOfConvert(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```yaml\n(mirrors:.*?)```\n\nis then\n\n```toml\n(.*?)```").FindSubmatch(page)
	if example == nil {
		t.Fatal("got no example, want one")
	}
	result, err := convert.Convert("registries.yaml", example[1], convert.SecretsDir, true)
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(string(result.TOML), "")
	if want := string(example[2]); strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// readAsNode reads a snippet in a place where the files that the documentation names exist.
func readAsNode(t *testing.T, text string) {
	etc := t.TempDir()
	certificate(t, etc)
	for name, content := range map[string]string{"password": "secret\n", "registry.toml": "# empty\n"} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text = strings.ReplaceAll(text, "/etc/berth/", etc+"/")
	var main struct {
		Version  int
		Imports  []string
		Required []string `toml:"required_plugins"`
		Root     string
		State    string
		GRPC     struct{ Address string } `toml:"grpc"`
		Plugins  map[string]map[string]any
	}
	if err := toml.Unmarshal([]byte(text), &main); err != nil {
		t.Fatal(err)
	}
	var loaded config.Loaded
	var err error
	if main.Version == 0 {
		file := filepath.Join(t.TempDir(), "snippet.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		loaded, err = config.LoadFile(file)
	} else {
		decoder := toml.NewDecoder(strings.NewReader(text)).DisallowUnknownFields()
		if err := decoder.Decode(&main); err != nil {
			t.Fatalf("decode strictly: %v", err)
		}
		for uri := range main.Plugins {
			if uri != ResolverURI && uri != LoaderURI {
				t.Errorf("got a stanza of %s, want those of our plugins", uri)
			}
		}
		for _, uri := range main.Required {
			if uri != ResolverURI && uri != LoaderURI {
				t.Errorf("got %s in required_plugins, want our plugins", uri)
			}
		}
		var problems strict.Problems
		ReadLoader(strict.Stanza{Name: "snippet", Values: main.Plugins[LoaderURI]}, &problems)
		if err := problems.Err(); err != nil {
			t.Errorf("read the loader's stanza:\n%v", err)
		}
		loaded, err = config.Load(strict.Stanza{Name: "snippet", Values: withoutDefaultPaths(main.Plugins[ResolverURI])})
	}
	if err != nil {
		t.Fatalf("read:\n%v", err)
	}
	if _, err := resolver.NewRoutes(loaded.Config); err != nil {
		t.Fatal(err)
	}
}

// withoutDefaultPaths keeps files of this machine out of a stanza that names none.
func withoutDefaultPaths(values map[string]any) map[string]any {
	if values == nil {
		return map[string]any{"config_path": []any{}}
	}
	return values
}

// certificate writes ca.pem, client.pem and client-key.pem.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem":         {Type: "CERTIFICATE", Bytes: der},
		"client.pem":     {Type: "CERTIFICATE", Bytes: der},
		"client-key.pem": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
