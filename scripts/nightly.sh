#!/usr/bin/env bash
# The long forms of what `make test` runs short: more seeds, more examples, every fuzz target.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

step "everything that gates a change" scripts/run_tests.sh
# 1,000 seeds after those of `make test`; another FROM explores others.
step "simulator" env SEED= FIGURES=200 SEEDS="${SEEDS:-1000}" FROM="${FROM:-300}" scripts/sim.sh
step "fio verification under kills" scripts/py.sh python -m tests.e2e.verify --seconds 60 --kills 5
# Another seed every day; a failure names the folder with everything, and how to repeat it.
seed="${SEED:-$(date +%Y%m%d)}"
step "nemesis, 3 servers" scripts/nemesis.sh --or-skip --minutes "${MINUTES:-10}" --servers 3 --seed "$seed"
step "nemesis, 5 servers" scripts/nemesis.sh --or-skip --minutes "${MINUTES:-10}" --servers 5 --seed "$seed"
step "properties" env HYPOTHESIS_PROFILE=nightly scripts/py.sh pytest -q --timeout 1800 tests/unit
# Some ten minutes; where it cannot run (no root, not x86_64) it says so.
step "kernel NBD, in a User Mode Linux" scripts/kernel.sh --or-skip
# FUZZ_SECONDS=… for each target.
step "fuzzing" scripts/fuzz.sh
finish nightly
say "nightly passed"
