# SPDX-FileCopyrightText: The Berth Authors
# SPDX-License-Identifier: Apache-2.0

GO      ?= go
PREFIX  ?= /usr/local
BIN     := bin
# Without cgo another architecture is built with no compiler of its own: make build GOARCH=arm64 CGO_ENABLED=0
CGO_ENABLED ?= 1

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REVISION   ?= $(shell git rev-parse HEAD 2>/dev/null)
CONTAINERD := $(shell $(GO) list -m -f '{{.Version}}' github.com/containerd/containerd/v2)

# Nodes report containerd's version; what follows the + names ours and does not change its order (semver.org, 10). nerdctl takes a
# containerd for an old one, and pulls past it, if there is anything but letters, digits, - and . in what follows.
V       := github.com/containerd/containerd/v2/version
BUILD   := $(shell printf %s '$(VERSION)' | tr -c '0-9A-Za-z.-' '-')
LDFLAGS := -s -w -X $(V).Version=$(CONTAINERD)+berth.$(BUILD) -X $(V).Revision=$(REVISION) \
           -X github.com/berth-edge/berth/plugin.Version=$(VERSION)
LINT    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.DEFAULT_GOAL := all
.PHONY: all build test lint demo bench install clean help

all: build ## build (the default)

build: ## build bin/containerd, statically linked, and bin/berth
	CGO_ENABLED=$(CGO_ENABLED) $(GO) build -trimpath -buildvcs=false -tags 'osusergo netgo static_build' \
		-ldflags '$(LDFLAGS) -extldflags "-static"' -o $(BIN)/containerd ./cmd/containerd
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN)/berth ./cmd/berth

test: ## run every test; integration needs root
	$(GO) test -race -timeout 15m ./cmd/... ./loader/... ./plugin/... ./resolver/...
	$(GO) test -timeout 20m ./integration/...

lint: ## check formatting, imports and style
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not formatted: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(LINT) run ./...

demo: ## show a rewritten pull, and a pod from a bundle; needs root
	$(GO) run ./integration/demo

bench: ## compare with stock containerd; needs root
	$(GO) test -run '^$$' -bench Route -benchmem ./resolver
	$(GO) test -run '^$$' -bench Storm ./resolver/credential
	$(GO) run ./integration/bench -plot docs/loading.svg

install: build ## install into $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(BIN)/containerd $(BIN)/berth $(DESTDIR)$(PREFIX)/bin

clean: ## remove what build made
	rm -rf $(BIN)

help: ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
