"""What a block of the load holds: a head that names its write and place, and bytes made of it."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from tests.e2e.lib.content import BLOCK_BYTES
from tests.e2e.nemesis.history import ZERO
from tests.e2e.nemesis.offence import value_words

_HEAD: Final = struct.Struct("<4sIQQQ")  # magic, seed, volume, block, value
_MAGIC: Final = b"NEMx"
_ZEROS: Final = bytes(BLOCK_BYTES)


class StampError(ValueError):
    """A block holds what was not written to it; the message says what that is."""


def stamp(seed: int, volume: int, block: int, value: int) -> bytes:
    """Bytes of one write to one block: no two are equal."""
    head = _HEAD.pack(_MAGIC, seed, volume, block, value)
    return head + hashlib.shake_128(head).digest(BLOCK_BYTES - _HEAD.size)


def read_stamp(seed: int, volume: int, block: int, data: bytes) -> int:
    """The value that these bytes are; every one of them is compared."""
    if data == _ZEROS:
        return ZERO
    magic, its_seed, its_volume, its_block, value = _HEAD.unpack(data[: _HEAD.size])
    if magic != _MAGIC:
        raise StampError("no head of a block")
    if data != stamp(its_seed, its_volume, its_block, value):
        raise StampError(f"only the head is right, of {value_words(value)} to {its_block}")
    if (its_seed, its_volume, its_block) != (seed, volume, block):
        raise StampError(
            f"{value_words(value)} to block {its_block} of volume {its_volume}, run {its_seed}"
        )
    return int(value)
