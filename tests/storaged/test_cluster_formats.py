from __future__ import annotations

import contextlib
import hashlib
import hmac
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drystone_common.errors import DataError
from drystone_storaged.cluster import codec, pgmap
from drystone_storaged.cluster.binary import Writer
from drystone_storaged.cluster.native import NATIVE, TicketFields
from drystone_storaged.cluster.pgmap import (
    ClusterMap,
    Joiner,
    MapDrive,
    MapPool,
    OutSince,
    PgRecord,
)
from drystone_storaged.cluster.records import (
    Attachment,
    AttachMode,
    AttachState,
    ChainLink,
    Content,
    ContentState,
    Fencing,
    ParentLink,
    Publication,
    Volume,
)

U32 = st.integers(0, 2**32 - 1)
PGS = st.builds(
    PgRecord,
    U32,
    st.lists(U32, max_size=8).map(tuple),
    st.lists(st.builds(Joiner, U32, U32, U32), max_size=8).map(tuple),
    st.lists(st.builds(OutSince, U32, U32, st.integers(0, 2**64 - 1)), max_size=8).map(tuple),
    st.lists(U32, max_size=8).map(tuple),
)


@settings(deadline=None)
@given(st.lists(PGS, max_size=20).map(tuple))
def test_a_shard_is_read_back_as_written(pgs):
    assert pgmap.decode_shard(pgmap.encode_shard(pgs)) == pgs


@settings(deadline=None)
@given(st.lists(PGS, min_size=1, max_size=4).map(tuple), st.data())
def test_a_damaged_shard_is_an_error_never_a_crash(pgs, data):
    value = bytearray(pgmap.encode_shard(pgs))
    cut = data.draw(st.integers(0, len(value) - 1))
    with pytest.raises(DataError):
        pgmap.decode_shard(bytes(value[:cut]))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 0xFF
    with contextlib.suppress(DataError):
        pgmap.decode_shard(bytes(value))


def test_a_pg_record_has_the_bytes_of_the_engine():
    out = Writer()
    pgmap.encode_pg(out, PgRecord(5, (1, 2), (Joiner(3, 4, 2),), (OutSince(9, 1, 7),), (1,)))
    expected = (
        "05000000" "02010101" "01000000" "02000000" "03000000" "04000000" "02000000"
        "09000000" "01000000" "0700000000000000" "01000000"
    )  # fmt: skip
    assert out.out.hex() == expected


def test_a_map_is_read_back_as_written():
    shard = pgmap.encode_shard((PgRecord(1, (1,), target=(1,)),))
    wanted = ClusterMap(
        uuid.UUID(int=1).bytes, 1, 1, 77,
        (MapDrive(1, bytes(16), bytes(16), "node-1", "127.0.0.1:8470", 5, 0),),
        (MapPool(1, 3, 1, 1, (shard,)),),
    )  # fmt: skip
    assert pgmap.decode_map(pgmap.encode_map(wanted)) == wanted


def test_a_ticket_has_the_bytes_and_the_mac_of_the_engine():
    master = bytes([1] * 32)
    fields = TicketFields(
        1, 7, 3, 99, bytes(16), "ro", 2, 5, 1 << 30, (ChainLink(9, 0, 0),),
        (ParentLink(1, 2, 3, 4, 5, 6, 7),),
    )  # fmt: skip
    sealed = NATIVE.seal_ticket(fields, master, 5)
    body, mac = sealed[:-32], sealed[-32:]
    assert body.hex() == (
        "01" "05000000" "01000000" "0700000000000000" "03000000" "6300000000000000"
        + "00" * 16 + "01" "0200" "0500000000000000" "0000004000000000"
        "01000000" "0900000000000000" "00000000" "0000000000000000"
        "01000000" "0100000000000000" "0200000000000000" "03000000" "0400000000000000"
        "0500000000000000" "0600000000000000" "0700"
    )  # fmt: skip
    key = hmac.new(master, b"ticket\0\x05\0\0\0", hashlib.sha256).digest()
    assert mac == hmac.new(key, body, hashlib.sha256).digest()


def test_records_are_read_back_as_written():
    volume = Volume(
        1, "v", 1, 4096, 2**64 - 1, (ChainLink(2),), (ParentLink(1, 2, 3, 4, 5, 6, 7),),
        attachments=(Attachment("c" * 32, "block-1", 5, AttachMode.READ_ONLY, AttachState.ACTIVE),),
        publications=(Publication("block-1", AttachMode.READ_ONLY),),
        fencing=Fencing(3, ("block-1",)), content=Content(ContentState.FORMATTING, "ext4", "n"),
        attributes={"csi.name": "ä"},
    )  # fmt: skip
    assert codec.decode(Volume, codec.encode(volume)) == volume


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"[]", b'{"v":2}', b'{"v":1}', b"[" * 100_000,
     b'{"v":1,"node":"a","mode":"xx"}', b'{"v":1,"node":5,"mode":"rw"}',
     b'{"v":1,"node":true,"mode":"rw"}'],
)  # fmt: skip
def test_a_damaged_record_is_a_typed_error(value):
    with pytest.raises(DataError):
        codec.decode(Publication, value)
