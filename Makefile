# girder-worker: `make help` lists the targets.

VERSION ?= 0.1.0-dev
COMMIT  ?= $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || echo unknown)
PREFIX  ?= /usr
DESTDIR ?=
GO      ?= go

# seccomp: libcontainer's filters. netgo, osusergo: nothing of glibc's name
# service, which a static binary cannot load. runc_nocriu: no checkpoints of
# containers, which nobody makes here.
TAGS    := seccomp netgo osusergo runc_nocriu
STAMP   := -X main.version=$(VERSION) -X main.commit=$(COMMIT)
# A build of one commit is the same bytes on every machine with the same
# compilers: no paths of the machine, no build id, no state of the checkout
# but the commit.
GOBUILD := $(GO) build -trimpath -buildvcs=false
LDFLAGS := -s -w -buildid= -extldflags -static
BINARY  := build/girder-worker
SCRIPTS := .ci/run $(shell find packaging contrib -type f -perm -u+x 2>/dev/null)
PACKAGES ?= ./...

export CGO_ENABLED := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what building, the demo and the tests need and this machine lacks (apt, as root)
	@packaging/deps build demo test

build: build-deps ## build the static binary, build/girder-worker
	@$(MAKE) --no-print-directory binary

build-deps:
	@packaging/deps build

# The static libraries of glibc and libseccomp go in, so that one file runs on
# every Linux, and so does the small program that runners and containers start as.
binary:
	@mkdir -p build $(dir $(BINARY))
	$(GOBUILD) -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o build/runner ./daemon/runner/program
	@echo '{"Replace":{"daemon/runner/embedded/program":"build/runner"}}' >build/overlay.json
	$(GOBUILD) -tags '$(TAGS) embedded' -overlay build/overlay.json -ldflags '$(LDFLAGS) $(STAMP)' -o $(BINARY) .

# Who answers for the packages, "NAME <ADDRESS>": a lab that makes its own says
# its own name.
MAINTAINER ?= The girder-worker developers <girder-worker@users.noreply.github.com>
# Every file in a package is as old as its commit.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)

OUT ?= build
wheels: ## make the Python wheels of contrib/python, in build/wheels
	python3 contrib/python/build.py '$(VERSION)' build/wheels

# For another architecture than this machine's, with a binary for this one that
# is asked for its version and completions.
ARCH ?=
ifeq ($(ARCH),)
PACKAGE := $(MAKE) --no-print-directory pack
else
PACKAGE := packaging/cross $(ARCH) $(MAKE) --no-print-directory binary pack BINARY=build/$(ARCH)/girder-worker NATIVE=$(BINARY) OUT=build/$(ARCH)
endif
deb: build ## make the package for Debian and Ubuntu, in build/; with ARCH=arm64 in build/arm64
	@$(PACKAGE) PACK=deb

rpm: build ## make the package for the RPM families, in build/; with ARCH=arm64 in build/arm64
	@$(PACKAGE) PACK=rpm

# Of what binary made.
NATIVE ?=
pack:
	@packaging/deps pack
	@mkdir -p $(OUT)
	@env -u GOARCH -u CC $(GO) build -o build/pack ./packaging/pack
	@rm -f $(OUT)/*.$(PACK)
	build/pack -binary $(BINARY) -native '$(NATIVE)' -version '$(VERSION)' -maintainer '$(MAINTAINER)' -arch $$($(GO) env GOARCH) -out $(OUT) $(PACK)

install: build ## install what the packages have below DESTDIR and PREFIX (/usr); then make users and start it: man/girder-worker.8.md
	@packaging/deps pack
	@$(GO) build -o build/pack ./packaging/pack
	build/pack -binary $(BINARY) -version '$(VERSION)' -maintainer '$(MAINTAINER)' -arch $$($(GO) env GOARCH) -out build \
		-root '$(abspath $(DESTDIR)/)' -prefix '$(PREFIX)' install

demo: ## run real jobs before your eyes on a temporary state directory (as root)
	@packaging/deps build demo
	@$(MAKE) --no-print-directory binary
	@contrib/demo/demo

test: deps ## run every test, with the race detector; container tests need root
	@packaging/test -tags '$(TAGS)' $(PACKAGES)

VM_PART ?=
test-vm: ## boot Debian 12 with systemd and cgroup v2 under qemu and test there; VM_PART='deb demo ./sandbox/runc' for less
	@packaging/deps build demo vm
	@MAKE='$(MAKE)' GO='$(GO)' TAGS='$(TAGS)' VERSION='$(VERSION)' packaging/vm/test $(VM_PART)

KILLS ?= 200
crashtest: deps ## kill the daemon, and runners at work with Girder, 200 times each and look for what is lost (as root)
	CRASH_KILLS=$(KILLS) $(GO) test -count=1 -v -timeout 60m -tags '$(TAGS)' -run TestCrash ./daemon/crashtest

celerytest: deps ## RabbitMQ restarted 20 times and Girder away under 500 tasks; 1,000 shared by two daemons; drains cut off (as root)
	CELERY_LOAD=1 $(GO) test -count=1 -v -timeout 60m -tags '$(TAGS)' -run 'TestCeleryOutages|TestCelerySharing|TestDrainCutOff' ./daemon

bench: ## measure against fdatasync, runc and cat, and hold the figures against the targets (as root)
	@packaging/deps build demo bench
	@$(MAKE) --no-print-directory binary
	$(GO) run -tags '$(TAGS)' ./packaging/bench -binary $(BINARY) $(BENCH)

lint: ## gofmt, go vet, staticcheck, shellcheck
	@packaging/deps build lint
	@bad=$$(find . -name '*.go' -not -path './build/*' -exec gofmt -l {} +); \
		[ -z "$$bad" ] || { echo "not formatted, run gofmt -w: $$bad" >&2; exit 1; }
	$(GO) vet -tags '$(TAGS)' ./...
	$(GO) tool staticcheck -tags '$(TAGS)' ./...
	shellcheck $(SCRIPTS)

FUZZTIME ?= 20s
fuzz: build-deps ## run every fuzz test for FUZZTIME (20s)
	@GO='$(GO)' TAGS='$(TAGS)' packaging/fuzz $(FUZZTIME)

clean: ## remove what was built
	rm -rf build

.PHONY: help deps build build-deps binary install wheels deb rpm pack demo test test-vm crashtest celerytest bench lint fuzz clean
