"""`drystone volume`."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from drystone_cli import attachments
from drystone_cli.context import find_cluster, manager
from drystone_cli.output import Output, OutputOption, done, emit, fields, say, size, table
from drystone_common.errors import DrystoneError
from drystone_common.units import parse_size, round_up
from drystone_storaged.agent.rest import Rest, segment

app = typer.Typer(
    help="Volumes: what a consumer sees as a disk.", no_args_is_help=True, rich_markup_mode=None
)

BLOCK_BYTES: Final = 4096

NameArgument = Annotated[str, typer.Argument(help="Name or id of the volume.")]


class As(StrEnum):
    """How a volume becomes usable."""

    AUTO = "auto"
    NBD = "nbd"
    FUSE = "fuse"
    EXPORT = "export"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the volume.")],
    size_text: Annotated[str, typer.Option("--size", help="10G is 10^9 bytes, 10Gi is 2^30.")],
    pool: Annotated[str, typer.Option(help="Pool that holds it.")] = "default",
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a volume; one that is there with the same size and pool is a success.

    Example: drystone volume create db --size 10G
    """
    body = {"name": name, "size": _bytes(size_text), "pool": pool}
    with manager() as rest:
        volume = rest.post("/v1/volumes", body)
        _warn_if_large(rest, volume)
    emit(output, volume, f"volume {volume['name']} ({volume['id']}) {size(volume['size'])}")


@app.command("list")
def list_volumes(output: OutputOption = Output.TABLE) -> None:
    """List volumes."""
    with manager() as rest:
        volumes = list(rest.items("/v1/volumes"))
    rows = [
        (
            v["name"], v["id"], size(v["size"]), size(v["used"]), v["pool"], v["generation"],
            ", ".join(a["node"] for a in v["attachments"]),
        )
        for v in volumes
    ]  # fmt: skip
    headers = ("NAME", "ID", "SIZE", "USED", "POOL", "GENERATION", "ATTACHED")
    emit(output, {"items": volumes}, table(headers, rows))


@app.command()
def show(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Show a volume: size, use, generation, attachments, states of its placement groups."""
    with manager() as rest:
        volume = rest.get(f"/v1/volumes/{segment(name)}")
    emit(output, volume, _text(volume))


@app.command()
def resize(
    name: NameArgument,
    size_text: Annotated[str, typer.Option("--size", help="The new, larger size.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Grow a volume; a device that is attached grows by itself."""
    with manager() as rest:
        volume = rest.patch(f"/v1/volumes/{segment(name)}", {"size": _bytes(size_text)})
        _warn_if_large(rest, volume)
    emit(output, volume, f"volume {volume['name']} has {size(volume['size'])} now")


@app.command()
def delete(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Delete a volume with its data; one that is attached is refused."""
    with manager() as rest:
        rest.delete(f"/v1/volumes/{segment(name)}")
    done(output, {"volume": name, "deleted": True}, f"volume {name} is deleted")


@app.command()
def fence(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """Shut out whoever has the volume attached; returns when they can write no more."""
    with manager() as rest:
        volume = rest.post(f"/v1/volumes/{segment(name)}/fence")
    emit(output, volume, f"volume {volume['name']} is fenced: generation {volume['generation']}")


@app.command()
def attach(
    name: NameArgument,
    node: Annotated[
        str | None,
        typer.Option(help="Consuming node of this machine.  [default: the first]"),
    ] = None,
    kind: Annotated[
        As, typer.Option("--as", help="auto: the best that works here; export: only an NBD socket.")
    ] = As.AUTO,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse writes.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a volume usable on this machine and print where.

    For example:

      drystone volume attach db

      drystone volume attach db --as export -o json | jq -r .nbd_uri
    """
    result = attachments.attach(find_cluster(), name, node, kind.value, read_only=read_only)
    emit(output, result, str(result["device"] or result["nbd_uri"]))


@app.command()
def detach(
    name: NameArgument,
    node: Annotated[
        str | None, typer.Option(help="Node to take it from.  [default: where it is attached]")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also if the node does not answer: it is fenced."),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a volume away from a node; afterwards that node can write no more."""
    nodes = attachments.detach(find_cluster(), name, node, force=force)
    where = f" to {node}" if node else ""
    said = f"detached from {', '.join(nodes)}" if nodes else f"was not attached{where}"
    done(output, {"volume": name, "detached": nodes}, f"volume {name}: {said}")


def _warn_if_large(rest: Rest, volume: dict[str, Any]) -> None:
    """Space is taken when it is written, so a volume may be larger than what there is."""
    with suppress(DrystoneError):
        # The volume is there; a pool that cannot be shown is no reason to fail.
        pool = rest.get(f"/v1/pools/{segment(volume['pool'])}")
        if volume["size"] > pool["capacity"]:
            say(
                f"warning: pool {pool['name']} has {size(pool['capacity'])} for all volumes; "
                "when it is full, writes to new places of this one get 'no space'"
            )


def _bytes(text: str) -> int:
    """A size in whole blocks: 10G is no multiple of 4096, and nobody wants less than asked for."""
    return round_up(parse_size(text), BLOCK_BYTES)


def _text(volume: dict[str, Any]) -> str:
    pgs = volume["pgs"]
    attached = [f"{a['node']} ({a['mode']}, {a['state']})" for a in volume["attachments"]]
    return fields(
        [
            ("name", volume["name"]),
            ("id", volume["id"]),
            ("size", size(volume["size"])),
            ("used", size(volume["used"])),
            ("pool", volume["pool"]),
            ("generation", volume["generation"]),
            ("attached", ", ".join(attached)),
            ("content", volume["content"]["state"]),
            ("placement groups", pgs["total"]),
            ("in sync", pgs["in_sync"]),
            ("degraded", pgs["degraded"]),
            ("resyncing", pgs["resyncing"]),
        ]
    )
