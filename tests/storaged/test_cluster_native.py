from __future__ import annotations

import json
import uuid

import drystone_native
from drystone_storaged.cluster import pgmap
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
from drystone_storaged.cluster.placement import PlacementDrive, PlacementSpec
from drystone_storaged.cluster.records import ChainLink, ParentLink

MASTER = bytes(range(32))


def test_role_keys_are_the_same_on_both_sides():
    peer = uuid.UUID(int=77).bytes
    for role in ("server", "client"):
        ours = NATIVE.role_key(MASTER, role, peer, 3)
        assert ours == drystone_native.role_key(MASTER, role, peer, 3)


def test_the_engine_opens_our_tickets():
    fields = TicketFields(
        4, 7, 3, 99, uuid.UUID(int=5).bytes, "rw", 2, 5, 1 << 30, (ChainLink(9, 0, 0),),
        (ParentLink(1, 2, 3, 4, 8192, 6, 7),),
    )  # fmt: skip
    opened = json.loads(
        drystone_native.open_ticket(NATIVE.seal_ticket(fields, MASTER, 2), MASTER, 2)
    )
    assert (opened["volume"], opened["generation"], opened["nonce"]) == (7, 3, 99)
    assert (opened["serial"], opened["size"], opened["pool"]) == (4, 1 << 30, 2)


def test_the_engine_reads_our_map():
    record = PgRecord(5, (1, 2), (Joiner(3, 4, 2),), (OutSince(9, 1, 7),), (1, 2, 3))
    ours = ClusterMap(
        uuid.UUID(int=1).bytes, 1, 1, 77,
        (MapDrive(1, bytes(16), bytes(16), "node-1", "127.0.0.1:8470", 5, 0),),
        (MapPool(1, 3, 2, 1, (pgmap.encode_shard((record,)),)),),
    )  # fmt: skip
    read = json.loads(drystone_native.map_to_json(pgmap.encode_map(ours)))
    assert read["revision"] == 77
    assert read["drives"][0]["addr"] == "127.0.0.1:8470"
    out = Writer()
    pgmap.encode_pg(out, record)
    assert (
        json.loads(drystone_native.pg_record_to_json(bytes(out.out))) == read["pools"][0]["pgs"][0]
    )


def test_the_extension_places_copies_in_distinct_domains():
    drives = tuple(PlacementDrive(n, f"node/{n % 4}", 1.0) for n in range(1, 13))
    domain = {d.id: d.domain for d in drives}
    placed = NATIVE.place_pool(PlacementSpec(1, 256, 3, drives))
    assert len(placed) == 256
    assert all(len({domain[d] for d in pg}) == 3 for pg in placed)
