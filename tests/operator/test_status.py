"""What is told of a condition, and how long a round may take before the operator is restarted."""

from __future__ import annotations

import pytest

from drystone_operator.apply.status_writer import good
from drystone_operator.handlers.loops import ROUND_S_MAX
from drystone_operator.plan.failover import Step
from drystone_operator.status import Condition
from tests.operator.conftest import settings


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("fenced", [True, False])
def test_only_a_node_that_is_well_is_told_of_without_a_warning(step, fenced):
    assert good(Condition("Fenced", fenced, step.value, "")) == (step is Step.WELL)


@pytest.mark.parametrize(
    ("kind", "status", "is_good"),
    [
        ("Ready", True, True),
        ("Ready", False, False),
        ("Ready", None, False),
        ("Secured", False, False),
        ("Degraded", True, False),
        ("Degraded", False, True),
        ("Progressing", True, True),
        ("Draining", True, True),
    ],
)
def test_a_condition_that_a_person_must_look_at_is_told_with_a_warning(kind, status, is_good):
    assert good(Condition(kind, status, "Reason", "")) == is_good


@pytest.mark.parametrize("reason", ["Maintenance", "Removing", "Removed"])
def test_what_somebody_asked_for_is_told_without_a_warning(reason):
    assert good(Condition("Ready", False, reason, ""))


def test_a_round_is_cut_off_before_the_operator_is_restarted_for_it():
    assert settings().healthy_s > ROUND_S_MAX
