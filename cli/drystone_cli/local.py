"""`drystone local`: a whole cluster on this machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from drystone_cli.context import DirOption, chosen_dir
from drystone_cli.output import (
    Output,
    OutputOption,
    done,
    emit,
    fields,
    say,
    spinner,
    table,
)
from drystone_common.units import parse_size
from drystone_storaged.local.cluster import LocalCluster
from drystone_storaged.local.members import Wanted

app = typer.Typer(
    help="A whole cluster on this machine, in one folder.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Signal(StrEnum):
    """Signals that `stop` can send."""

    TERM = "TERM"
    KILL = "KILL"
    STOP = "STOP"
    CONT = "CONT"


class ProcessKind(StrEnum):
    """Processes that a node may have."""

    SERVER = "server"
    BEACON = "beacon"
    BLOCK = "block"
    MANAGER = "manager"
    ETCD = "etcd"


class Metadata(StrEnum):
    """Where the cluster's records are."""

    SQLITE = "sqlite"
    ETCD = "etcd"


def _option(text: str, default: str) -> Any:
    """Of `up`; the default is only told, since what is not given stays as the cluster has it."""
    return typer.Option(help=f"{text}  [default: {default}]", show_default=False)


ServersOption = Annotated[int | None, _option("Storage nodes.", "3")]
DrivesOption = Annotated[int | None, _option("Drives a node.", "1")]
DriveSizeOption = Annotated[str | None, _option("Size of a new drive file (sparse).", "8G")]
ConsumersOption = Annotated[int | None, _option("Consuming nodes.", "1")]
MetadataOption = Annotated[
    Metadata | None,
    _option("Where the records are: a file of one manager, or an etcd for several.", "sqlite"),
]
ManagersOption = Annotated[int | None, _option("Managers, of which one leads.", "3 on etcd")]


@app.command()
def up(  # noqa: PLR0917 - the options of the command
    folder: DirOption = None,
    servers: ServersOption = None,
    drives: DrivesOption = None,
    drive_size: DriveSizeOption = None,
    consumers: ConsumersOption = None,
    metadata: MetadataOption = None,
    managers: ManagersOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start the cluster, making it first; returns when it is healthy.

    Run it again at any time: what runs is left alone, what is missing is started, larger numbers
    add nodes and drives. Data is never formatted over.

    For example:

      drystone local up

      drystone local up --dir /srv/lab --servers 5 --drive-size 20G --consumers 2

      drystone local up --metadata etcd --managers 3
    """
    wanted = Wanted(
        servers=servers,
        drives=drives,
        drive_size=parse_size(drive_size, "drive size") if drive_size else None,
        consumers=consumers,
        metadata=metadata.value if metadata else None,
        managers=managers,
    )
    with spinner("starting") as tell:
        cluster = LocalCluster(chosen_dir(folder), tell)
        try:
            cluster.up(wanted)
        except KeyboardInterrupt:
            say(
                "what was started keeps running: `drystone local up` goes on, `drystone local "
                "status` shows it, `drystone local down` stops it"
            )
            raise
    status = cluster.status()
    count = len(status["processes"])
    emit(
        output,
        status,
        f"healthy: {count} processes in {status['dir']}\n"
        "next: drystone volume create NAME --size 1G && drystone volume attach NAME",
    )


@app.command("status")
def show(folder: DirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show the processes of the cluster and what keeps it from being healthy."""
    status = LocalCluster(chosen_dir(folder)).status()
    emit(output, status, _status_text(status))


@app.command()
def down(folder: DirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Stop every process. Data, devices and settings stay; `up` goes on with them."""
    count = LocalCluster(chosen_dir(folder), say).down()
    line = f"{count} processes stopped" if count else "nothing was running"
    done(output, {"stopped": count}, line)


@app.command()
def destroy(
    folder: DirOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also remove devices that are in use.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Detach every volume, stop every process, delete the folder with all data in it.

    A device that is mounted is refused: unmount it first, or use --force.
    """
    chosen = chosen_dir(folder)
    if not chosen.is_dir():
        done(output, {"dir": str(chosen), "removed": False}, f"there is nothing in {chosen}")
        return
    LocalCluster(chosen, say).destroy(force=force)
    done(output, {"dir": str(chosen), "removed": True}, "everything is removed")


@app.command()
def stop(
    node: Annotated[str, typer.Argument(help="node-1, block-1, manager-1, etcd-1, …")],
    signal: Annotated[Signal, typer.Option(help="TERM and KILL wait for the end.")] = Signal.TERM,
    process: Annotated[
        ProcessKind | None, typer.Option(help="Needed only for a node with several.")
    ] = None,
    folder: DirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop, kill, freeze or wake a node's process, to see what the cluster makes of it.

    For example:

      drystone local stop node-2 --signal KILL

      drystone local stop block-1 --signal STOP
    """
    name = LocalCluster(chosen_dir(folder)).stop(
        node, signal.value, process.value if process else None
    )
    done(output, {"process": name, "signal": signal.value}, f"{name}: SIG{signal.value}")


@app.command()
def start(
    node: Annotated[str, typer.Argument(help="node-1, block-1, manager-1, etcd-1, …")],
    folder: DirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start what does not run on a node, wake what is frozen; returns when the manager sees it."""
    started = LocalCluster(chosen_dir(folder), say).start(node)
    line = f"{node} runs again" if started else f"{node} was running"
    done(output, {"node": node, "started": started}, line)


def _status_text(status: dict[str, Any]) -> str:
    rows = [(p["name"], p["node"], _state(p), p["pid"], p["log"]) for p in status["processes"]]
    head = [("folder", status["dir"]), ("health", status["health"])]
    head += [("rest", status["endpoints"].get("rest"))]
    head += [("issue", issue) for issue in status["issues"]]
    return f"{fields(head)}\n\n{table(('PROCESS', 'NODE', 'STATE', 'PID', 'LOG'), rows)}"


def _state(process: dict[str, Any]) -> str:
    role = process.get("role")
    return f"{process['state']}, {role}" if role else str(process["state"])
