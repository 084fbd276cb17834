"""`drystone node devices`, `drystone drive add`, `drystone drive remove`."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from drystone_cli.context import manager
from drystone_cli.output import Output, OutputOption, done, emit, fields, say, size, table
from drystone_common.errors import ConflictError, DeadlineError
from drystone_storaged.agent.rest import TIMEOUT_S, Rest, segment

POLL_S: Final = 0.2
WAIT_S: Final = 120.0
"""For a drive to be up: formatting takes seconds, an open replays for seconds. One that is refused
ends the wait at once."""

LOOK_S: Final = 60.0  # the manager waits 30 s for the server, which bounds each probe to 10 s

NodeArgument = Annotated[str, typer.Argument(help="Name of the storage node.")]
DeviceArgument = Annotated[
    str, typer.Argument(help="Id or path, as `drystone node devices` shows.")
]


def add_to(nodes: typer.Typer, drives: typer.Typer) -> None:
    """Add these commands to their groups."""
    nodes.command("devices")(list_devices)
    drives.command("add")(add_drive)
    drives.command("remove")(remove_drive)


def list_devices(
    node: NodeArgument,
    look: Annotated[bool, typer.Option("--look", help="Let the node look again first.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what a storage node has that could be a drive, and what is on it.

    Example: drystone node devices node-1
    """
    with manager(LOOK_S if look else TIMEOUT_S) as rest:
        query = "?look=true" if look else ""
        found = rest.get(f"/v1/nodes/{segment(node)}/devices{query}")
        wanted = rest.get(f"/v1/nodes/{segment(node)}/drives")["items"]
    text = _devices_text(found["items"], _away(found["items"], wanted))
    emit(output, {**found, "wanted": wanted}, text)
    if not found["connected"]:
        say(f"{node} is not connected: nothing is known of its devices")
    elif not found["discovers"]:
        say(f"the server of {node} does not look for devices: set `drive_listen` there")


def add_drive(
    node: NodeArgument,
    device: DeviceArgument,
    protected: Annotated[
        bool,
        typer.Option(
            "--power-loss-protected",
            help="Its cache survives a power cut. Wrong here means lost data.",
        ),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the drive is up.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a blank device of a storage node into use as a drive.

    It is formatted if it is blank, and opened if it was a drive of this cluster. Anything else is
    refused and left as it is.

    Example: drystone drive add node-1 /dev/sdb --wait
    """
    with manager() as rest:
        body = {"device": device, "power_loss_protected": protected}
        found = rest.post(f"/v1/nodes/{segment(node)}/drives", body)
        if wait:
            found = _wait_up(rest, node, found["device"])
    emit(output, found, fields([(key.replace("_", " "), found[key]) for key in found]))


def remove_drive(
    node: NodeArgument, device: DeviceArgument, output: OutputOption = Output.TABLE
) -> None:
    """Take a drive out of use. One that a placement group counts on is refused.

    What is on it stays as it is; added again, it is the same drive.
    """
    with manager() as rest:
        rest.delete(f"/v1/nodes/{segment(node)}/drives/{quote(device, safe=':')}")
    line = f"{device} on {node} is no drive any more"
    done(output, {"node": node, "device": device, "removed": True}, line)


def _wait_up(rest: Rest, node: str, device: str) -> dict[str, Any]:
    end = time.monotonic() + WAIT_S
    while True:
        items = rest.get(f"/v1/nodes/{segment(node)}/drives")["items"]
        found: dict[str, Any] = next((i for i in items if i["device"] == device), {})
        state = found.get("state", "gone")
        if state == "up":
            return found
        if state in ("refused", "gone"):
            raise ConflictError(
                f"{device} on {node} is refused: {found.get('reason') or 'it is wanted no more'}",
                code=found.get("code") or "drive_refused",
                hint="the server tries again by itself; `drystone drive remove` ends that",
            )
        if time.monotonic() >= end:
            raise DeadlineError(
                f"{device} on {node} is {state} after {WAIT_S:.0f} s",
                hint="see `drystone node devices` and the log of its server; it goes on by itself",
            )
        time.sleep(POLL_S)


def _away(devices: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Wanted drives whose device is not seen."""
    seen = {device["id"] for device in devices}
    return [drive for drive in wanted if drive["device"] not in seen]


def _devices_text(devices: list[dict[str, Any]], away: list[dict[str, Any]]) -> str:
    rows: list[tuple[object, ...]] = [
        (
            d["id"], d["path"], size(d["size_bytes"]), d["class"], d["state"], d["found"],
            _wanted_text(d["wanted"]),
        )
        for d in devices
    ]  # fmt: skip
    rows += [(d["device"], None, None, None, "not seen", None, _wanted_text(d)) for d in away]
    return table(("DEVICE", "PATH", "SIZE", "CLASS", "STATE", "FOUND", "DRIVE"), rows)


def _wanted_text(wanted: dict[str, Any] | None) -> str | None:
    if wanted is None:
        return None
    reason = f" ({wanted['code']}: {wanted['reason']})" if wanted["code"] else ""
    return f"{wanted['state']}{reason}"
