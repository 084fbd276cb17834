"""`drystone manager|server|beacon|block|…`: the processes of a cluster, by their settings files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

CONFIG_ARGUMENTS: Final = 3  # KIND --config FILE


def run_directly(argv: Sequence[str]) -> bool:
    """Run a process if the command line is exactly ``KIND --config FILE``; else do nothing."""
    if list(argv) == ["operator"]:
        _operator(None)
        return True
    if len(argv) != CONFIG_ARGUMENTS or argv[0] not in RUNNERS or argv[1] != "--config":
        return False
    RUNNERS[argv[0]](Path(argv[2]))
    return True


def _manager(config: Path) -> None:
    from drystone_common.settings import load_settings  # noqa: PLC0415 - only this process
    from drystone_storaged.manager.app import main  # noqa: PLC0415 - needs it
    from drystone_storaged.manager.settings import ManagerSettings  # noqa: PLC0415 - as above

    main(load_settings(ManagerSettings, file=config))


def _server(config: Path) -> None:
    from drystone_storaged.server.app import run  # noqa: PLC0415 - only this process needs it

    run(config)


def _beacon(config: Path) -> None:
    from drystone_storaged.beacon.app import run  # noqa: PLC0415 - only this process needs it

    run(config)


def _block(config: Path) -> None:
    from drystone_storaged.block.app import run  # noqa: PLC0415 - only this process needs it

    run(config)


def _fuse_helper(config: Path) -> None:
    from drystone_storaged.fuse.app import run  # noqa: PLC0415 - only this process needs it

    run(config)


def _csi(config: Path) -> None:
    from drystone_cli.csi_process import run  # noqa: PLC0415 - only this process needs it

    run(config)


def _operator(config: Path | None) -> None:
    from drystone_operator.main import run  # noqa: PLC0415 - only this process needs it

    run(config)


RUNNERS: Final[dict[str, Callable[[Path], None]]] = {
    "manager": _manager,
    "server": _server,
    "beacon": _beacon,
    "block": _block,
    "fuse-helper": _fuse_helper,
    "csi": _csi,
    "operator": _operator,
}

_HELP: Final = {
    "manager": "Run a manager: membership, placement, volumes, the management API.",
    "server": "Run a storage server: all drives of this node.",
    "beacon": "Run the beacon of a storage node: heartbeats, votes, its server's read lease.",
    "block": "Run a block daemon: the volumes attached to this node.",
    "fuse-helper": "Run the FUSE helper: holds the devices of this node while block is replaced.",
    "csi": "Run the CSI plugin: identity, controller and node service on one socket.",
    "operator": "Run the Kubernetes operator; its settings may all be DRYSTONE_* variables.",
}


def add_to(app: object) -> None:
    """Add one command for each process to the tree, for its help."""
    import typer  # noqa: PLC0415 - the daemons start without it

    if not isinstance(app, typer.Typer):
        return
    option = Annotated[Path, typer.Option("--config", help="Settings file (TOML).")]
    for name, runner in RUNNERS.items():
        if name != "operator":
            app.command(name, help=_HELP[name])(_command(runner, option))
    # In a pod everything comes by variables; a file is for people who try it outside.
    optional = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML).")]

    def operator(config: Path | None = None) -> None:
        _operator(config)

    operator.__annotations__ = {"config": optional, "return": None}
    app.command("operator", help=_HELP["operator"])(operator)


def _command(runner: Callable[[Path], None], option: object) -> Callable[..., None]:
    """A command of one option, without the default that a closure would show as another."""

    def command(config: Path) -> None:
        runner(config)

    command.__annotations__ = {"config": option, "return": None}
    return command
