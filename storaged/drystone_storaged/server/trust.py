"""Whether a drive's old content still counts for anything in the map.

A drive that cannot prove its log (SUSPECT) answers nothing and leaves its placement groups as
blank. Once the map agrees everywhere, it may be opened with the suspicion cleared: whatever it
holds is copied anew.
"""

from __future__ import annotations

from uuid import UUID

from drystone_storaged.cluster.pgmap import STATE_BYTE, PgRecord, decode_map, decode_shard


def counts_nowhere(data: bytes, drive: int) -> bool:
    """True if the encoded map gives the drive's content no credit, and others have it.

    False while it is in sync anywhere, or an older copy counts; and where a group that it belongs
    to has no in-sync copy on a drive that is up: then what is left on this one may be the last.
    """
    if not data:
        return False
    found = decode_map(data)
    up = {d.id for d in found.drives if d.state == STATE_BYTE["up"]}
    pgs = (pg for pool in found.pools for shard in pool.shards for pg in decode_shard(shard))
    return not any(_counts(pg, drive) or _is_last(pg, drive, up) for pg in pgs)


def _counts(pg: PgRecord, drive: int) -> bool:
    credit = {(j.drive, j.e0) for j in pg.joining} | {(o.drive, o.e0) for o in pg.out}
    return drive in pg.insync or any(each == drive and e0 for each, e0 in credit)


def _is_last(pg: PgRecord, drive: int, up: set[int]) -> bool:
    mine = {*pg.target, *(j.drive for j in pg.joining), *(o.drive for o in pg.out)}
    return drive in mine and up.isdisjoint(pg.insync)


def is_forgotten(data: bytes, uuid: str) -> bool:
    """True if the encoded map says that an operator gave this drive up for good."""
    wanted = UUID(uuid).bytes
    return bool(data) and any(
        d.uuid == wanted and d.state == STATE_BYTE["gone"] for d in decode_map(data).drives
    )
