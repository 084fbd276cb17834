# The only entry point, for people and for CI. Every target does all of its own set-up,
# may be run again at any time, and is quick when there is nothing to do.
# The logic is in scripts/: this file only says what depends on what.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Parameters, all optional: make sim SEED=7 | SEEDS=1000 FROM=300; make crash-replay POINTS=100000;
# make nemesis MINUTES=10 SEED=7 SERVERS=5; make bench PEERS=ceph; make kube-e2e KIND=1.
SEED ?=
SEEDS ?=
FROM ?=
POINTS ?=
PEERS ?=
KIND ?=
MINUTES ?=
SERVERS ?=
export SEED SEEDS FROM POINTS PEERS MINUTES SERVERS

.PHONY: help setup env lint fmt etcd test sim crash-replay scale bench demo nightly generate check clean image nemesis kernel-test kube-up kube-down kube-demo kube-e2e

help: ## Show this list.
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' \
	  | while IFS=$$'\t' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: ## Install what is missing (Debian packages and Rust when root), then the Python environment.
	@scripts/setup.sh

env: ## Like setup, but without building the native package: what lint and fmt need.
	@scripts/setup.sh --no-native

lint: env ## Check format, types, layers and Rust lints; changes nothing.
	@scripts/lint.sh

fmt: env ## Format Python and Rust in place, and apply the linter's safe fixes.
	@scripts/fmt.sh

etcd: ## Build the etcd server for tests and `local up --metadata etcd` into your cache folder.
	@scripts/etcd.sh

test: setup ## Run everything that gates a change: lint, Rust, simulator, Python, csi-sanity, nemesis, Kubernetes.
	@scripts/run_tests.sh

sim: env ## Run the simulator: schedules, figures, damage, mutations, 300 seeds. SEEDS=n FROM=m: these seeds; SEED=n: only that one, with its trace.
	@scripts/sim.sh

crash-replay: env ## Cut recorded runs of a drive at every flush, compare with what was acked. POINTS=n: how many.
	@scripts/crash_replay.sh

scale: setup ## Count what control costs at the planned size, write docs/scale.md.
	@scripts/py.sh python -m scripts.scale

bench: setup ## Measure against the floors and peers, write docs/performance.md. PEERS=ceph adds Ceph.
	@scripts/bench.sh

demo: setup ## Start a three-server cluster here, break it on purpose and check every byte.
	@scripts/demo.sh

nightly: setup ## Run the long forms: more seeds, fuzzing, long fault runs.
	@scripts/nightly.sh

generate: env ## Regenerate every committed generated file from its definition.
	@scripts/generate.sh

check: setup ## Run the quick part before a commit: lint and the unit tests.
	@scripts/lint.sh
	@scripts/py.sh pytest -q tests/unit

clean: ## Remove what the builds made; keeps the tools of `make setup`.
	@scripts/clean.sh

image: env ## Build the container image into dist/, with docker, podman or buildah, or without any.
	@scripts/image.sh

nemesis: setup ## Break a real cluster on purpose for MINUTES (10) and judge it; SEED=n, SERVERS=3|5 (root).
	@scripts/nemesis.sh

kernel-test: setup ## Test kernel NBD devices, daemons replaced under I/O, in a User Mode Linux (root, Debian).
	@scripts/kernel.sh

kube-up: ## Start a Kubernetes of three nodes on this machine (root; builds its programs once).
	@scripts/kube.sh up

kube-down: ## Take that Kubernetes away (of kube-up and kube-demo), with everything that it made.
	@scripts/kube.sh down

kube-demo: image ## Start it with Drystone installed and print a tour; `make kube-down` ends it.
	@scripts/kube.sh demo

kube-e2e: image ## Start one, test in it from install to removal, take it away. KIND=1: one that kind makes.
	@scripts/kube.sh $(if $(filter-out 0,$(KIND)),kind,e2e)
