from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drystone_common.errors import ConflictError
from drystone_storaged.cluster.native import NATIVE
from drystone_storaged.cluster.placement import (
    PlacementDrive,
    PlacementSpec,
    pg_count_for,
    width_of,
)


def spec(weights: dict[str, list[float]], copies: int = 3, pgs: int = 64) -> PlacementSpec:
    drives, number = [], 0
    for domain, each in weights.items():
        for weight in each:
            number += 1
            drives.append(PlacementDrive(number, domain, weight))
    return PlacementSpec(1, pgs, copies, tuple(drives))


WEIGHTS = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.floats(0.1, 16.0), min_size=1, max_size=3), min_size=1
)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(1, 4))
def test_copies_lie_in_distinct_domains(weights, copies):
    wanted = spec(weights, copies)
    domain = {d.id: d.domain for d in wanted.drives}
    placed = NATIVE.place_pool(wanted)
    width = width_of(wanted)
    assert all(len({domain[d] for d in pg}) == len(pg) == width for pg in placed)


def test_the_same_drives_give_the_same_placement():
    wanted = spec({"a": [1.0], "b": [2.0], "c": [1.0], "d": [3.0]})
    assert NATIVE.place_pool(wanted) == NATIVE.place_pool(wanted)


def test_three_equal_nodes_hold_every_pg():
    placed = NATIVE.place_pool(spec({"a": [1.0], "b": [1.0], "c": [1.0]}))
    assert all(sorted(pg) == [1, 2, 3] for pg in placed)


def test_a_domain_that_is_too_large_holds_nearly_every_pg_and_the_others_share_the_rest():
    placed = NATIVE.place_pool(spec({"a": [10.0], "b": [1.0], "c": [1.0]}, copies=2))
    slots = Counter(d for pg in placed for d in pg)
    assert slots[1] >= len(placed) - 2
    assert abs(slots[2] - slots[3]) <= 0.1 * len(placed)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_shares_follow_weights_where_no_domain_is_too_large(copies):
    wanted = spec({"a": [2.0, 1.0], "b": [3.0], "c": [1.0, 2.0], "d": [3.0]}, copies, pgs=256)
    placed = NATIVE.place_pool(wanted)
    slots = Counter(d for pg in placed for d in pg)
    for drive in wanted.drives:
        share = len(placed) * copies * drive.weight / 12
        assert abs(slots[drive.id] - share) <= max(2.0, 0.1 * share)


def test_no_drive_is_an_error_that_says_what_to_do():
    with pytest.raises(ConflictError):
        NATIVE.place_pool(PlacementSpec(1, 64, 3, ()))


def test_pg_counts_are_powers_of_two_within_bounds():
    assert [pg_count_for(n, 3) for n in (1, 3, 12, 100_000)] == [64, 64, 256, 8192]
