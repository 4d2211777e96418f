# Everything here runs on a machine with Go alone; real servers are used when redis-server or valkey-server is found.
.DEFAULT_GOAL := help
MODULES := $(shell awk '!/^#/ && NF {print $$1}' modules.txt)

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: ## Test every module
	go test work

race: ## Test every module with the race detector
	go test -race work

strict: ## Test every module; a skipped server is a failure
	REDISX_TEST_REQUIRE=server,cluster,sentinel,container,clock go test -count=1 work

check: ## Formatting, vet, layers, module files, docs
	@test -z "$$(gofmt -l $(MODULES))" || { gofmt -l $(MODULES); exit 1; }
	go vet work
	cd tools && go test -count=1 ./...

GOLANGCI_LINT ?= github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

lint: ## golangci-lint in every module (built from its module, which takes minutes the first time)
	@set -e; bin=$$(mktemp -d); trap 'rm -rf $$bin' EXIT; GOBIN=$$bin go install $(GOLANGCI_LINT); \
	for m in $(MODULES); do echo "== $$m"; (cd $$m && $$bin/golangci-lint run ./...); done

bench: ## Compare with the bare clients (needs redis-server); see benchmarks/README.md
	cd benchmarks && go run .

tidy: ## go mod tidy in every module
	@for m in $(MODULES); do (cd $$m && GOWORK=off go mod tidy) || exit 1; done

demo: ## Run the example service against itself
	go run ./examples/checkout -demo

.PHONY: help test race strict check lint bench tidy demo
