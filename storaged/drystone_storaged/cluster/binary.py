"""Little-endian reading and writing with bounds: the Python twin of crate ``types``' codec."""

from __future__ import annotations

import struct
from typing import Final

from drystone_common.errors import DataError

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class Writer:
    """Appends fields."""

    def __init__(self) -> None:
        self.out = bytearray()

    def u8(self, value: int) -> Writer:
        """One byte."""
        self.out.append(value)
        return self

    def u16(self, value: int) -> Writer:
        """Two bytes."""
        self.out += _U16.pack(value)
        return self

    def u32(self, value: int) -> Writer:
        """Four bytes; also a count."""
        self.out += _U32.pack(value)
        return self

    def u64(self, value: int) -> Writer:
        """Eight bytes."""
        self.out += _U64.pack(value)
        return self

    def raw(self, data: bytes) -> Writer:
        """Bytes as they are."""
        self.out += data
        return self

    def blob(self, data: bytes) -> Writer:
        """Bytes after their length."""
        return self.u32(len(data)).raw(data)


class Reader:
    """Takes fields; running out of bytes is a ``DataError``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def raw(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self._at + count
        if count < 0 or end > len(self._data):
            raise DataError("a binary record ends inside a field", code="record_damaged")
        part = self._data[self._at : end]
        self._at = end
        return part

    def u8(self) -> int:
        """One byte."""
        return self.raw(1)[0]

    def u16(self) -> int:
        """Two bytes."""
        return int(_U16.unpack(self.raw(2))[0])

    def u32(self) -> int:
        """Four bytes."""
        return int(_U32.unpack(self.raw(4))[0])

    def u64(self) -> int:
        """Eight bytes."""
        return int(_U64.unpack(self.raw(8))[0])

    def count(self, count_max: int) -> int:
        """A count no larger than ``count_max``."""
        value = self.u32()
        if value > count_max:
            raise DataError("a length in a binary record is over its limit", code="record_damaged")
        return value

    def finish(self) -> None:
        """Everything must have been read."""
        if self._at != len(self._data):
            raise DataError("bytes follow the end of a binary record", code="record_damaged")
