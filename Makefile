# The verbs of the repository: `make help`. Needs Go (the version is in go.mod) and nothing else; what more a verb needs,
# `make test-deps` installs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# HTTP/2 is off in the HTTP door (ADR 0010); without its code the program is 330 KB smaller. kmsg is one generated page for each
# message of Kafka's, of small calls: without their inlining it is 590 KB smaller, and as quick.
export GOFLAGS := $(GOFLAGS) -tags=nethttpomithttp2 -gcflags=github.com/twmb/franz-go/pkg/kmsg=-l
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)
SIZE_MAX := 20000000# bytes of the binary of a board: 20 MB
DATA ?= ./data
BOARD ?= qemu-arm64# of the device image; image/boards lists them
IMAGE := bin/image/$(BOARD)
KAFKA ?= 127.0.0.1:9092# where `make qemu` serves
MQTT ?= 127.0.0.1:8883
CUTS ?= 20000# power cuts of test-long
FUZZTIME ?= 20s

# Packages whose tests run once more under the race detector, which needs a C compiler.
RACE := ./broker/api ./broker/auth ./broker/group ./broker/journal ./broker/partition ./broker/poll ./broker/purgatory ./broker/record ./broker/rest ./broker/server ./broker/wheel ./broker/budget \
	./broker/boot ./bridge/mqtt/... ./bridge/feed ./bridge/upstream/... ./hw/... ./platform/health ./platform/logbook ./platform/pulse

.PHONY: run test test-long test-deps lint fuzz bench build cross deb image qemu flash clean help go

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

go:
	@want=$$(sed -n 's/^go //p' go.mod)
	have=$$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null || true)
	have=$${have#go}
	if [ -z "$$have" ] || [ "$$(printf '%s\n' "$$want" "$$have" | sort -V | head -n 1)" != "$$want" ]; then
		echo "millrace needs Go $$want or newer, found $${have:-none}: install it from your distribution or go.dev/dl" >&2
		exit 1
	fi

build: go ## bin/millrace for this machine
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/millrace ./platform/cmd/millrace

run: build ## a broker on loopback with a simulated sensor, data in ./data (DATA=DIR)
	@exec bin/millrace serve --data "$(DATA)" --sim

test: go ## every test; lanes whose tools are missing are skipped loudly, see test-deps
	@begin=$$SECONDS
	log=$$(mktemp)
	trap 'rm -f "$$log"' EXIT
	# An idle board (testbench/idle) is measured, and emulated boards (testbench/vm) come last, one after the other: they
	# want the machine for themselves.
	{ MILLRACE_CUTS=$${MILLRACE_CUTS:-4000} go test -timeout 15m -v $$(go list ./... | grep -vE '/testbench/(idle|vm)$$') || true
		go test -timeout 20m -v -p 1 ./testbench/idle ./testbench/vm; } 2>&1 | tee "$$log" | grep -E --line-buffered '^(ok|FAIL|panic:|---? FAIL|\?)|^ *--- FAIL|^ +[a-z_]+\.go:[0-9]+:|LANE SKIPPED' | grep -vE --line-buffered 'no test files' || true
	failed=0; grep -qE '^FAIL|^panic:|^--- FAIL' "$$log" && failed=1
	grep -q '^ok' "$$log" || failed=1
	if command -v cc >/dev/null; then
		CGO_ENABLED=1 go test -race -short -timeout 10m $(RACE) || failed=1
	elif [ "$${CI:-}" = true ]; then
		echo "the race detector needs a C compiler: make test-deps" >&2; failed=1
	else
		echo "LANE SKIPPED: no C compiler, so no race detector; to run it: make test-deps"
	fi
	skipped=$$(grep -c 'LANE SKIPPED' "$$log" || true)
	passed=$$(grep -cE '^ *--- PASS' "$$log" || true); lost=$$(grep -cE '^ *--- FAIL' "$$log" || true)
	[ "$$skipped" = 0 ] || echo "$$skipped lanes were skipped for missing tools; to run them: make test-deps"
	echo "tests took $$((SECONDS - begin)) s"
	echo "$$passed passed, $$lost failed, $$(grep -cE '^ *--- SKIP' "$$log" || true) skipped"
	exit $$failed

test-long: go ## the long proofs: CUTS=20000 power cuts, as many damaged directories, 50 kill -9, 200 rounds of a link to three nodes
	@export MILLRACE_CUTS=$(CUTS) MILLRACE_FLIPS=$(CUTS) MILLRACE_KILLS=50 MILLRACE_ROUNDS=200 MILLRACE_BACKLOG=4096
	failed=0
	go test -timeout 6h -v $$(go list ./testbench/... | grep -vE '/testbench/(idle|vm)$$') || failed=1
	go test -timeout 1h -v -p 1 ./testbench/idle ./testbench/vm || failed=1
	exit $$failed

test-deps: go ## installs what the lanes need (Debian): kcat, mosquitto, Java, Python and Node clients, emulators, FUSE, image tools
	@export PATH="$$PATH:/usr/sbin:/sbin"
	need=()
	have() { command -v "$$1" >/dev/null || need+=("$$2"); }
	have kcat kcat; have mosquitto_pub mosquitto-clients; have mosquitto mosquitto
	have qemu-arm-static qemu-user-static; have fusermount3 fuse3; have mkfs.ext4 e2fsprogs
	have java default-jre-headless; have mvn maven; have cc gcc; have git git; have python3 python3-venv
	have node nodejs; have npm npm
	have qemu-system-aarch64 qemu-system-arm; have mmdebstrap mmdebstrap; have mksquashfs squashfs-tools; have genimage genimage
	have mcopy mtools; have mkfs.vfat dosfstools; have mkimage u-boot-tools; have depmod kmod; have cpio cpio; have zstd zstd; have xz xz-utils; have sfdisk fdisk; have flock util-linux; have systemd-analyze systemd
	if [ "$${#need[@]}" -gt 0 ]; then
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo
		$$sudo apt-get update -q
		# A directory of our own: containers are set up to empty apt's while it is still installing.
		archives=$$(mktemp -d); mkdir "$$archives/partial"
		$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends -o Dir::Cache::archives="$$archives" "$${need[@]}"
		$$sudo rm -rf "$$archives"
	fi
	go mod download
	bash testbench/client/kafka/install.sh
	bash testbench/client/python/install.sh
	bash testbench/client/kafkajs/install.sh
	bash testbench/client/mqttjs/install.sh

lint: go ## formatting, vet for every target, staticcheck, and the rules of testbench/tidy
	@bad=$$(git ls-files '*.go' | xargs go tool gofumpt -l)
	[ -z "$$bad" ] || { echo "not formatted (go tool gofumpt -w): $$bad" >&2; exit 1; }
	for arch in amd64 arm arm64; do
		echo "vet $$arch"
		CGO_ENABLED=0 GOARCH=$$arch GOARM=7 go vet ./...
	done
	echo staticcheck
	go tool staticcheck ./...
	go test -count=1 ./testbench/tidy

fuzz: go ## every fuzz target for FUZZTIME=20s
	@grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$$dir"/*_test.go | cut -c6-); do
			echo "$$dir $$target"
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir"
		done
	done

bench: go ## the table of testbench/bench, beside the peers that are installed (BENCH=-quick: 90 seconds)
	@go run ./testbench/bench $(BENCH)

cross: go ## static bin/millrace-linux-{arm,arm64,amd64}, those of boards at most 20 MB
	@mkdir -p bin
	for arch in arm arm64 amd64; do
		out=bin/millrace-linux-$$arch
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch GOARM=7 go build -trimpath -ldflags "-s -w $(LDFLAGS)" -o $$out ./platform/cmd/millrace
		size=$$(stat -c %s $$out)
		printf '%s\t%d bytes\n' $$out $$size
		[ $$arch = amd64 ] || [ $$size -le $(SIZE_MAX) ] || { echo "$$out is over $(SIZE_MAX) bytes" >&2; exit 1; }
	done

deb: cross ## bin/millrace_VERSION_{armhf,arm64,amd64}.deb, of what cross builds
	@rm -f bin/millrace_*.deb
	for arch in armhf:arm arm64:arm64 amd64:amd64; do
		bash platform/systemd/debian/build.sh "$${arch%:*}" "bin/millrace-linux-$${arch#*:}" bin
	done

image: go ## the device image of BOARD=qemu-arm64 in bin/image; the first time it downloads 150 MB of Debian
	@begin=$$SECONDS
	VERSION="$(VERSION)" bash image/build.sh "$(BOARD)" "$(IMAGE)"
	echo "$(IMAGE)/disk.img took $$((SECONDS - begin)) s"

qemu: go ## runs the image emulated, its doors at KAFKA=127.0.0.1:9092 and MQTT=127.0.0.1:8883; its data stay in bin/image
	@[ -f "$(IMAGE)/disk.img" ] || $(MAKE) image
	KAFKA="$(KAFKA)" MQTT="$(MQTT)" SETTINGS="$(SETTINGS)" exec bash image/run.sh "$(IMAGE)"

flash: ## writes the image to DEVICE=/dev/sdX, which must be removable
	@bash image/flash.sh "$(IMAGE)/disk.img" "$(DEVICE)"

clean: ## removes bin/; data/ is yours
	rm -rf bin
