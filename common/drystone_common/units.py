"""Sizes as people write them, exact integers of bytes inside.

Suffixes mean what they mean in Kubernetes: ``G`` is 10^9 and ``Gi`` is 2^30, so a size in a
command and in a manifest never differ.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from drystone_common.errors import InvalidArgumentError

SIZE_MAX: Final = 2**63 - 1  # the largest size that CSI, the kernel and SQLite can all express
_TEXT_MAX: Final = 32  # longer than any exact size with unit; bounds the arithmetic below

_UNITS: Final[dict[str, int]] = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(|[kKMGTPE]i?)B?", re.ASCII)


def parse_size(text: str, what: str = "size") -> int:
    """Read "10G", "8Gi", "1.5TiB" or "4096" as bytes; a fraction of a byte is refused."""
    match = _SIZE.fullmatch(text) if len(text) <= _TEXT_MAX else None
    if match is None:
        raise _bad(text, what, "write a number and a unit, such as 10G (10^9) or 8Gi (2^30)")
    unit = "k" if match[2] == "K" else match[2]
    value = Fraction(match[1]) * _UNITS[unit]
    if value.denominator != 1:
        raise _bad(text, what, "it is not a whole number of bytes")
    if value > SIZE_MAX:
        raise _bad(text, what, f"the largest size is {SIZE_MAX} bytes")
    return value.numerator


def format_size(size: int) -> str:
    """Write the shortest exact form that ``parse_size`` reads back to the same number."""
    _check(size)
    exact = [(size // n, unit) for unit, n in _UNITS.items() if size and size % n == 0]
    if not exact:
        return str(size)
    # On equal length the binary unit, last in the table, says best what was meant.
    best = min(reversed(exact), key=lambda pair: len(f"{pair[0]}{pair[1]}"))
    return f"{best[0]}{best[1]}"


def human_size(size: int) -> str:
    """Round for reading ("7.5 GiB"); never parse the result."""
    _check(size)
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        # 1023.95 would be printed as 1024.0 of the smaller unit.
        if value < 1023.95:  # noqa: PLR2004 - explained above
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} EiB"


def round_up(size: int, multiple: int) -> int:
    """Give the smallest multiple of ``multiple`` that is at least ``size``."""
    if multiple <= 0:
        raise InvalidArgumentError(f"cannot round to a multiple of {multiple}", code="invalid_size")
    return -(-size // multiple) * multiple


def _check(size: int) -> None:
    if not 0 <= size <= SIZE_MAX:
        raise InvalidArgumentError(f"{size} is not a size in bytes", code="invalid_size")


def _bad(text: str, what: str, hint: str) -> InvalidArgumentError:
    shown = ascii(text[:_TEXT_MAX])
    return InvalidArgumentError(f"{what} {shown} is not valid", code="invalid_size", hint=hint)
