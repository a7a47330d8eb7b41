# The commands others rely on. "make" builds bin/highwire; the rest is listed by "make help".
SHELL := /bin/bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
VPP := $(or $(HIGHWIRE_VPP_BIN),$(shell command -v vpp))

.PHONY: build demo demo-remote test test-vpp test-k8s test-vm lint lint-image bench bench-control bench-dns bench-recovery bench-remote bench-throughput generate help

build: ## bin/highwire, static
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/highwire ./cmd/highwire

demo: build ## the main job on this machine: exit 0 only if packets flowed
	bin/highwire demo

demo-remote: build ## the same over two nodes: exit 0 only if packets flowed through VXLAN and through WireGuard
	bin/highwire demo --remote

test: ## everything that a bare machine can run; what is skipped is listed with its reason
	.ci/need gcc
	.ci/need etcd || true # its tests are skipped where it cannot be installed
	go vet ./...
	go tool staticcheck ./...
	go run .ci/gotest.go -race -timeout 15m ./...

test-vpp: ## the tests on the real VPP of HIGHWIRE_VPP_BIN or PATH; fails where there is none
	@test -x '$(VPP)' || { echo 'no VPP here: set HIGHWIRE_VPP_BIN to the path of a vpp executable, or put vpp on PATH' >&2; exit 1; }
	.ci/need gcc
	HIGHWIRE_VPP_BIN='$(VPP)' go run .ci/gotest.go -race -timeout 30m -count=1 ./...

test-k8s: ## the Kubernetes registry and all of deploy/ on a real kube-apiserver and etcd; builds the former once, unless HIGHWIRE_KUBE_APISERVER names it
	.ci/need etcd gcc
	@server="$${HIGHWIRE_KUBE_APISERVER:-$$(cd deploy/test && go tool -modfile=apiserver.mod -n kube-apiserver)}" && \
	export HIGHWIRE_KUBE_APISERVER="$$server" && \
	go run .ci/gotest.go -race -timeout 20m -count=1 ./controlplane/registry ./controlplane/webhook && \
	cd deploy/test && go mod tidy && go vet ./... && go run ../../.ci/gotest.go -timeout 20m -count=1 ./...

test-vm: ## tests of virtual functions and taps in a virtual machine of QEMU's, on VPP too where HIGHWIRE_VPP_BIN or PATH has one
	HIGHWIRE_VPP_BIN='$(VPP)' .ci/test-vm

lint: ## formatting, vet, staticcheck, the import rule, golangci-lint
	@test -z "$$(gofmt -l .)" || { echo 'not formatted by gofmt:'; gofmt -l .; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go test -run '^TestImports$$' ./cmd/highwire
	go tool -modfile=.ci/lint.mod golangci-lint run ./...

lint-image: ## BuildKit's linter on Dockerfile.vpp, in a module of its own
	cd deploy/image && go test ./... && go run . ../../Dockerfile.vpp

bench: ## Go benchmarks
	go test -run '^$$' -bench . -benchmem ./...

bench-throughput: build ## packets and Requests beside the same made by hand, on the real VPP if one is found: bench/out/throughput.json
	HIGHWIRE_VPP_BIN='$(VPP)' go run ./bench/throughput

bench-control: build ## Requests and Closes at once, on the real VPP if one is found: bench/out/control.json
	HIGHWIRE_VPP_BIN='$(VPP)' go run ./bench/control

bench-remote: build ## vWires over two nodes beside tunnels made by hand, on two real VPPs if one is found: bench/out/remote.json
	HIGHWIRE_VPP_BIN='$(VPP)' go run ./bench/remote

bench-recovery: build ## what is lost when the agent or VPP dies, on the real VPP if one is found: bench/out/recovery.json
	HIGHWIRE_VPP_BIN='$(VPP)' go run ./bench/recovery

bench-dns: ## a pod's queries a second, beside CoreDNS: bench/out/dns.json
	go -C bench/dns run . -out '$(CURDIR)/bench/out/dns.json'

generate: ## regenerate from the .proto files and show that nothing differs
	.ci/need protoc
	controlplane/api/generate.sh
	git diff --exit-code -- controlplane/api
	@test -z "$$(git status --porcelain -- controlplane/api)" || { git status --short -- controlplane/api; exit 1; }

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12
