"""The command tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drystone_cli import cluster, local, pools, processes, recover, tasks, volumes
from drystone_cli.bundle.command import bundle
from drystone_cli.doctor.command import doctor
from drystone_cli.events import events
from drystone_cli.kube import target
from drystone_cli.named import CA_FILE_VARIABLE, ca_file_option
from drystone_cli.output import Output, OutputOption, emit
from drystone_common import __version__

EPILOG = (
    "Exit codes: 0 done, 2 bad command line, 3 not found, 4 conflict, 5 unavailable, 6 denied, "
    "7 deadline, 8 no space, 9 data error, 1 anything else."
)

app = typer.Typer(
    name="drystone",
    help="Replicated block storage over plain drives.\n\n"
    "A cluster on this machine in two commands:\n\n"
    "  drystone local up\n\n"
    "  drystone volume create db --size 10G && drystone volume attach db\n\n"
    "A StorageCluster of a Kubernetes: what is wrong, and what to do:\n\n"
    "  kubectl drystone -n NAMESPACE status",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    kube: Annotated[
        bool, typer.Option("--kube", help="The cluster of a Kubernetes, as kubectl reaches it.")
    ] = False,
    context: Annotated[
        str, typer.Option(help="Context of the kubeconfig; implies --kube.", show_default=False)
    ] = "",
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace",
            "-n",
            help="Namespace of the StorageCluster; implies --kube.",
            show_default=False,
        ),
    ] = "",
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            help="CA certificates of the managers that $DRYSTONE_URL names, as PEM; default "
            f"${CA_FILE_VARIABLE}.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Replicated block storage over plain drives."""
    named = kube or context or namespace
    target.choose(target.Target(context, namespace) if named else None)
    ca_file_option.set(ca_file)


@app.command()
def version(output: OutputOption = Output.TABLE) -> None:
    """Print the version of this program."""
    emit(output, {"version": __version__}, __version__)


app.add_typer(local.app, name="local")
app.add_typer(volumes.app, name="volume")
app.add_typer(pools.app, name="pool")
app.add_typer(tasks.app, name="task")
app.add_typer(recover.app, name="recover")
cluster.add_to(app)
app.command("doctor")(doctor)
app.command("bundle")(bundle)
app.command("events")(events)
processes.add_to(app)
