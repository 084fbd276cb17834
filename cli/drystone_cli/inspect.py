"""`drystone drive inspect`: what lies on a drive file or device, without any server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from drystone_cli.output import Output, OutputOption, emit, fields, table
from drystone_common.errors import DrystoneError

PathArgument = Annotated[Path, typer.Argument(help="Drive file or device; its server is stopped.")]
BlocksOption = Annotated[
    bool, typer.Option("--blocks", help="Read every block and compare it with its checksum.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="With --blocks: write a line for every block here.")
]


NEXT: Final = (
    "stop the server that has it open; `drystone node devices NODE` says what is on it if it is no "
    "drive of ours; see `dmesg` if it cannot be read"
)


class UnreadableDriveError(DrystoneError):
    """A drive that cannot be looked at."""

    kind = "failed"
    default_code = "drive_unreadable"


def inspect(
    path: PathArgument,
    blocks: BlocksOption = False,
    out: OutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what lies on a drive: cluster, groups, volumes, and with --blocks every block.

    Nothing is written to it. A drive that a server has open is refused; stop the server first, or
    look at a copy.

    Example: drystone drive inspect /var/lib/drystone/drive-1.img --blocks
    """
    from drystone_native import (  # noqa: PLC0415 - few commands need the native module
        NativeError,
        drive_blocks,
        drive_facts,
    )

    try:
        found: dict[str, Any] = json.loads(drive_facts(str(path)))
        if blocks or out is not None:
            found["blocks"] = json.loads(drive_blocks(str(path), None if out is None else str(out)))
    except NativeError as refused:
        raise UnreadableDriveError(str(refused), hint=NEXT) from refused
    emit(output, found, _text(found))


def _text(found: dict[str, Any]) -> str:
    head = fields(
        [
            ("drive", found["drive"] or "no number yet"),
            ("uuid", found["uuid"]),
            ("cluster", found["cluster"]),
            ("nonce", found["nonce"]),
            ("store", f"incarnation {found['incarnation']}, revision {found['revision']}"),
            ("format", f"{found['format']}, feature level {found['feature_level']}"),
            ("stopped", "cleanly" if found["clean"] else "not cleanly"),
            ("suspect", found["suspect"] or "no"),
            ("damaged values", ", ".join(found["damaged"]) or "none"),
            ("freed layers", ", ".join(str(layer) for layer in found["freed"]) or "none"),
        ]
    )
    parts = [head, _groups(found["pgs"]), _volumes(found["volumes"])]
    if "blocks" in found:
        parts.append(_blocks(found["blocks"]))
    return "\n\n".join(parts)


def _groups(pgs: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{pg['pool']}/{pg['pg']}",
            pg["epoch"],
            pg["highest_epoch"],
            pg["join"] or "-",
            pg["objects"],
            pg["blocks"],
        )
        for pg in pgs
    ]
    return table(("PG", "EPOCH", "HIGHEST", "JOIN", "OBJECTS", "BLOCKS"), rows)


def _volumes(volumes: list[dict[str, Any]]) -> str:
    rows = [
        (
            volume["volume"],
            volume["sealed_generation"],
            volume["max_generation"],
            f"{volume['stable']['generation']}.{volume['stable']['seq']}",
            ", ".join(str(layer["layer"]) for layer in volume["layers"]) or "-",
            sum(layer["data_blocks"] for layer in volume["layers"]),
        )
        for volume in volumes
    ]
    return table(("VOLUME", "SEALED", "HIGHEST", "STABLE", "LAYERS", "DATA BLOCKS"), rows)


def _blocks(blocks: dict[str, Any]) -> str:
    names = ("data", "holes", "zeros", "bad", "rotten", "unproven", "unread")
    return fields([(name, blocks[name]) for name in names])
