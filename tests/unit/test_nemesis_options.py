"""Which laps a run plays, and in which order, follows from its options and its seed."""

from __future__ import annotations

import argparse
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.nemesis.options import ONCE, Options, add_arguments, needed, order, parse
from tests.e2e.nemesis.special import LAPS, NEEDED, ORDERED, SHORT
from tests.e2e.nemesis.testbuild import VARIABLE


def options(*words: str) -> Options:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parse(parser.parse_args(words))


@given(seed=st.integers(0, 1000), servers=st.sampled_from([3, 5]))
def test_every_lap_is_played_once_before_any_is_again_and_what_is_promised_first(seed, servers):
    chosen = Options(seed, servers, seconds=600, faulty=True)
    first = list(islice(order(chosen), len(LAPS)))
    assert sorted(first) == sorted(LAPS)
    assert first[0] == "quiet"
    assert set(first[1 : 1 + len(NEEDED)]) == set(NEEDED)
    later = list(islice(order(chosen), 5 * len(LAPS)))[len(LAPS) :]
    assert not set(ONCE) & set(later)
    assert first == list(islice(order(chosen), len(LAPS)))


def test_what_only_a_test_build_can_play_is_left_out_or_refused_without_one(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    long = options("--minutes", "1")
    assert not long.faulty
    assert not set(ORDERED) & set(islice(order(long), 3 * len(LAPS)))
    with pytest.raises(ValueError, match=r"setup_nemesis\.sh"):
        options("--laps", "kill,flush-die")
    (tmp_path / "drystone_native").mkdir()
    (tmp_path / "drystone_native" / "_native.abi3.so").touch()
    assert options("--minutes", "1").faulty
    assert options("--laps", "kill,flush-die").faulty
    assert not options("--laps", "kill").faulty, "figures of the product where that can be"
    assert not options("--short").faulty


def test_laps_that_are_named_are_played_once_or_for_as_long_as_is_asked():
    assert list(order(options("--laps", "kill, stop"))) == ["quiet", "kill", "stop"]
    assert list(order(options("--laps", "quiet,kill"))) == ["quiet", "kill"]
    longer = islice(order(options("--laps", "kill,stop", "--minutes", "1")), 6)
    assert list(longer) == ["quiet", "kill", "stop", "kill", "stop", "kill"]


def test_the_short_form_is_one_of_each():
    short = options("--short", "--seconds", "60")
    assert tuple(order(short)) == SHORT == needed(short)


def test_without_a_word_it_lasts_ten_minutes_and_needs_what_is_promised():
    assert options().seconds == 600
    assert needed(options()) == NEEDED
    assert options("--seconds", "90").seconds == 90


@pytest.mark.parametrize("words", [("--laps", "kill,tsunami"), ("--minutes", "0")])
def test_what_makes_no_run_is_refused(words):
    with pytest.raises(ValueError, match=r"no such lap: tsunami|longer than nothing"):
        options(*words)
