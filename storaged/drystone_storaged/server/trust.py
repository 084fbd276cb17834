"""Whether a drive's old content still counts for anything in the map.

A drive that cannot prove its log (SUSPECT) answers nothing and leaves its placement groups as
blank. Once the map agrees everywhere, it may be opened with the suspicion cleared: whatever it
holds is copied anew.
"""

from __future__ import annotations

from uuid import UUID

from drystone_storaged.cluster.pgmap import STATE_BYTE, decode_map, decode_shard


def counts_nowhere(data: bytes, drive: int) -> bool:
    """True if the encoded map neither has the drive in sync nor gives its content any credit."""
    if not data:
        return False
    for pool in decode_map(data).pools:
        for shard in pool.shards:
            for pg in decode_shard(shard):
                if drive in pg.insync:
                    return False
                if any(j.drive == drive and j.e0 for j in pg.joining):
                    return False
                if any(o.drive == drive and o.e0 for o in pg.out):
                    return False
    return True


def is_forgotten(data: bytes, uuid: str) -> bool:
    """True if the encoded map says that an operator gave this drive up for good."""
    wanted = UUID(uuid).bytes
    return bool(data) and any(
        d.uuid == wanted and d.state == STATE_BYTE["gone"] for d in decode_map(data).drives
    )
