"""The sum at the end of `make test` comes from what the runners printed, and from nothing else."""

from __future__ import annotations

import sys

from scripts.run_tests import (
    Counts,
    Step,
    count_cargo,
    count_ginkgo,
    count_none,
    count_plain,
    count_pytest,
    run,
)


def test_cargo_results_are_summed_over_test_binaries():
    output = (
        "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n"
        "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n"
    )
    assert count_cargo(output) == Counts(15, 2, 1)


def test_pytests_last_summary_counts_with_errors_as_failures():
    output = "x 1 passed\n1 failed, 20 passed, 3 skipped, 2 errors in 3.21s\n"
    assert count_pytest(output) == Counts(20, 3, 3)
    assert count_pytest("===== 5 passed in 0.10s =====\n") == Counts(5)


def test_the_simulators_and_csi_sanitys_summaries_are_read():
    assert count_plain("seeds: 299 passed, 1 failed\n") == Counts(299, 1)
    assert count_ginkgo("FAIL! -- 27 Passed | 1 Failed | 0 Pending | 62 Skipped") == Counts(
        27, 1, 62
    )


def test_output_without_a_summary_counts_nothing():
    for count in (count_cargo, count_pytest, count_plain, count_ginkgo):
        assert count("error: could not compile\n") == Counts()


def test_a_step_that_fails_without_a_count_is_one_failure(capsys):
    step = Step("broken", (sys.executable, "-c", "raise SystemExit(3)"), count_none)
    assert run(step) == Counts(failed=1)
