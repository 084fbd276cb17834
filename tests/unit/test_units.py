"""Sizes: exact in both directions, Kubernetes' meaning of the suffixes, bounded input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drystone_common import units
from drystone_common.errors import InvalidArgumentError

SIZES = st.integers(0, units.SIZE_MAX)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("10G", 10**10),
        ("8Gi", 8 * 2**30),
        ("8GiB", 8 * 2**30),
        ("8 GiB", 8 * 2**30),
        ("1.5Ti", 3 * 2**39),
        ("0.5Ki", 512),
        ("1k", 1000),
        ("1K", 1000),
        ("1KB", 1000),
        ("7EiB", 7 * 2**60),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_sizes_mean_what_they_mean_in_kubernetes(text, size):
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "", "G", "-1", "+1", "1.G", ".5G", "1e9", "0x10", "1m", "1g", "1gi", "10GG", "1 0",
        " 1", "1\n", "1,5G", "٣", "0.3", "1.0001", "8Ei", "99999999E", "1" * 33, "NaN", "inf",
    ],
)  # fmt: skip
def test_everything_else_is_a_typed_error(text):
    with pytest.raises(InvalidArgumentError) as caught:
        units.parse_size(text, "drive size")
    assert caught.value.code == "invalid_size"
    assert caught.value.hint


@given(SIZES)
def test_format_reads_back_exactly(size):
    assert units.parse_size(units.format_size(size)) == size


@given(st.integers(1, 1023), st.sampled_from(["Ki", "Mi", "Gi", "Ti"]))
def test_whole_units_are_written_as_such(count, unit):
    assert len(units.format_size(units.parse_size(f"{count}{unit}"))) <= len(f"{count}{unit}")


@given(st.text(max_size=40))
def test_any_text_is_a_size_or_a_typed_error(text):
    try:
        assert 0 <= units.parse_size(text) <= units.SIZE_MAX
    except InvalidArgumentError as error:
        assert len(error.message) < 600


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (8 * 2**30, "8.0 GiB"),
        (10**10, "9.3 GiB"),
        (units.SIZE_MAX, "8.0 EiB"),
    ],
)
def test_human_sizes_are_rounded_for_reading(size, text):
    assert units.human_size(size) == text


@given(st.integers(0, 2**62), st.integers(1, 2**30))
def test_rounding_up_gives_the_smallest_multiple(size, multiple):
    rounded = units.round_up(size, multiple)
    assert rounded % multiple == 0
    assert 0 <= rounded - size < multiple


@pytest.mark.parametrize("call", [lambda: units.format_size(-1), lambda: units.human_size(2**63)])
def test_numbers_that_are_no_sizes_are_refused(call):
    with pytest.raises(InvalidArgumentError):
        call()


def test_rounding_to_no_multiple_is_refused():
    with pytest.raises(InvalidArgumentError):
        units.round_up(1, 0)
