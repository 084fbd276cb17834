"""`drystone recover`: an old copy of the metadata store is brought back safely."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drystone_cli.output import Output, OutputOption, emit, fields, say, table
from drystone_common.errors import DataError, InvalidArgumentError
from drystone_common.settings import load_settings

if TYPE_CHECKING:  # both are slow to import, and only these commands need them
    from drystone_storaged.cluster.recovery import Recovery
    from drystone_storaged.cluster.recovery_inputs import Inputs
    from drystone_storaged.cluster.recovery_volumes import VolumePlan
    from drystone_storaged.cluster.scans import NodeScan

app = typer.Typer(
    name="recover",
    help="Put an old copy of the metadata store back safely, with what the drives know.",
    no_args_is_help=True,
)

ServerConfigOption = Annotated[
    Path, typer.Option("--config", help="Settings file of this node's server (TOML).")
]
ManagerConfigOption = Annotated[
    Path, typer.Option("--config", help="Settings file of a manager (TOML).")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Where the scan goes.", show_default="NODE.scan")
]
ScanOption = Annotated[
    list[Path] | None, typer.Option("--scan", help="The scan of one node; give all of them.")
]
WithoutOption = Annotated[
    list[int] | None,
    typer.Option("--without", help="A drive that is given up: what only it holds is lost."),
]
PlanOption = Annotated[bool, typer.Option("--plan", help="Only show what would be done.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Yes, change the metadata store.")]


@app.command("scan")
def scan(
    config: ServerConfigOption, out: OutOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Read all drives of this node into a file; its server is stopped. Nothing is changed.

    It ends with 9 where a drive could not be read; the file is written all the same.

    Example: drystone recover scan --config /etc/drystone/server.toml --out node-1.scan
    """
    import drystone_native  # noqa: PLC0415 - few commands need the native module
    from drystone_storaged.attach.command import SystemRunner  # noqa: PLC0415 - as above
    from drystone_storaged.recover.scan import ScanParts, scan_node  # noqa: PLC0415 - as above
    from drystone_storaged.recover.scanfile import write_scan  # noqa: PLC0415 - as above
    from drystone_storaged.server.settings import ServerSettings  # noqa: PLC0415 - as above

    settings = load_settings(ServerSettings, file=config)
    parts = ScanParts(
        drystone_native.drive_facts, drystone_native, SystemRunner(), int(time.time())
    )
    found = asyncio.run(scan_node(settings, parts))
    path = out or Path(f"{found.node}.scan")
    write_scan(path, found)
    emit(output, _scan_json(found, path), _scan_text(found, path))
    if found.unread:
        raise DataError(
            f"{len(found.unread)} drives that should be there were not read",
            code="scan_incomplete",
            hint="see the lines with NOT READ: cure that and scan again; only a drive that is "
            "really lost is given up, with `recover metadata --without NUMBER`",
        )


def _scan_json(found: NodeScan, path: Path) -> dict[str, Any]:
    return {
        "file": str(path),
        "node": found.node,
        "cluster": found.cluster,
        "drives": [
            {"drive": d.number, "uuid": d.uuid, "path": d.path, "suspect": d.suspect or None}
            for d in found.drives
        ],
        "unread": [{"uuid": u.uuid, "path": u.path, "reason": u.reason} for u in found.unread],
    }


def _scan_text(found: NodeScan, path: Path) -> str:
    rows: list[tuple[object, ...]] = [
        (d.number or "none yet", d.path, len(d.pgs), len(d.volumes), d.suspect or "-")
        for d in found.drives
    ]
    rows += [("-", u.path, "-", "-", f"NOT READ: {u.reason}") for u in found.unread]
    shown = table(("DRIVE", "PATH", "PGS", "VOLUMES", "SUSPECT"), rows)
    return f"{shown}\n\n{found.node}: {len(found.drives)} drives are in {path}"


@app.command("metadata")
def metadata(  # noqa: PLR0917 - typer passes them by name
    config: ManagerConfigOption,
    scan: ScanOption = None,
    without: WithoutOption = None,
    plan: PlanOption = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bring the store of these settings up to what the drives have seen; managers are stopped.

    Who is in sync is what the drives say; epochs and generations go above all that they have seen,
    and every attachment ends. What cannot be decided is refused.

    Example: drystone recover metadata --config manager.toml --scan node-1.scan --scan node-2.scan
    --plan
    """
    if not plan and not yes:
        raise InvalidArgumentError(
            "this changes the metadata store, and every volume is detached",
            code="confirmation_missing",
            hint="look at it with --plan first, then repeat with --yes",
        )
    from drystone_storaged.manager.recovery.run import Recoverer  # noqa: PLC0415 - slow, only here
    from drystone_storaged.recover.scanfile import read_scan  # noqa: PLC0415 - as above

    scans = tuple(read_scan(path) for path in scan or ())
    work = Recoverer(
        _manager_settings(config), scans, frozenset(without or ()), int(time.time()),
        secrets.randbits(64) or 1,
    )  # fmt: skip
    inputs, found = asyncio.run(work.run(write=not plan))
    emit(output, _plan_json(found, done=not plan), _plan_text(inputs, found))
    if found.refusals:
        raise DataError(
            f"the metadata store is not recovered: {len(found.refusals)} things are undecided",
            code="recovery_refused",
            hint="see the lines that begin with REFUSED",
        )
    if not plan:
        say(
            "the metadata store is recovered: start one manager, then the beacons and servers, "
            "then the other managers"
        )


def _manager_settings(config: Path) -> Any:
    from drystone_storaged.manager.settings import ManagerSettings  # noqa: PLC0415 - as above

    return load_settings(ManagerSettings, file=config)


def _plan_json(found: Recovery, *, done: bool) -> dict[str, Any]:
    volumes = found.volumes
    return {
        "done": done and not found.refusals,
        "refused": list(found.refusals),
        "notes": list(found.notes),
        "incarnation": found.incarnation,
        "drives": sorted(found.drives),
        "pgs": {f"{ref.pool}/{ref.pg}": list(pg.insync) for ref, pg in found.pgs.items()},
        "volumes": {
            "raised": len(volumes.volumes),
            "found": [v.name for v in volumes.found],
            "deleted": [v.name for v in volumes.deleted],
        },
    }


def _counted(volumes: VolumePlan) -> str:
    found, deleted = len(volumes.found), len(volumes.deleted)
    return f"{len(volumes.volumes)} raised, {found} found on drives, {deleted} deleted since"


def _plan_text(inputs: Inputs, found: Recovery) -> str:
    nodes = [
        (scan.node, len(scan.drives), ", ".join(str(d.number) for d in scan.drives))
        for scan in inputs.scans
    ]
    copies: dict[int, int] = {}
    for pg in found.pgs.values():
        copies[len(pg.insync)] = copies.get(len(pg.insync), 0) + 1
    volumes = found.volumes
    attached = sorted(v.name for v in inputs.backup.volumes if v.attachments)
    head = fields(
        [
            ("copy of the store", f"revision {inputs.backup.revision}"),
            ("goes on above", f"revision {found.revision_min}"),
            ("incarnation", f"{inputs.backup.incarnation} -> {found.incarnation}"),
            ("volumes", _counted(volumes)),
            ("attached in the copy", ", ".join(attached) or "none"),
            *((f"groups with {n} in sync", count) for n, count in sorted(copies.items())),
        ]
    )  # fmt: skip
    parts = [table(("NODE", "DRIVES", "NUMBERS"), nodes), head]
    parts += ["\n".join(found.notes)] if found.notes else []
    parts.append(
        "Every attachment ends. What was changed in the store after the copy and leaves no trace "
        "on a drive is lost: attributes, publications, names, tokens, settings of pools, volumes "
        "that were never attached. A drive that came after the copy and is not in the list above "
        "may hold the newest copy of something: make sure that there is none."
    )
    parts += ["\n".join(f"REFUSED  {line}" for line in found.refusals)] if found.refusals else []
    return "\n\n".join(parts)
