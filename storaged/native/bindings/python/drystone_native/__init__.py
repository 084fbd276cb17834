"""The native data path of Drystone.

Belongs here: re-exports of the compiled module. Does not belong here: logic. Everything that
takes time runs in native threads with the interpreter lock released and never calls back.
"""

from drystone_native._native import (
    BeaconCore,
    BlockCore,
    NativeError,
    ServerCore,
    block_csum,
    chunk_hash,
    crc64,
    drive_blocks,
    drive_facts,
    format_drive,
    inspect_drive,
    map_to_json,
    open_ticket,
    pg_record_to_json,
    place_pool,
    role_key,
    salvage_drive,
    seal_ticket,
    version,
)

__all__ = [
    "BeaconCore",
    "BlockCore",
    "NativeError",
    "ServerCore",
    "block_csum",
    "chunk_hash",
    "crc64",
    "drive_blocks",
    "drive_facts",
    "format_drive",
    "inspect_drive",
    "map_to_json",
    "open_ticket",
    "pg_record_to_json",
    "place_pool",
    "role_key",
    "salvage_drive",
    "seal_ticket",
    "version",
]
