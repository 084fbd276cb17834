"""`drystone doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from drystone_cli.doctor.facts import KUBELET_DIR
from drystone_cli.doctor.findings import answer
from drystone_cli.kube import target
from drystone_cli.output import Output, OutputOption, emit, table
from drystone_common.errors import ExitCode


def doctor(  # noqa: PLR0917 - the options of the command
    node: Annotated[
        bool, typer.Option("--node", help="Look at this machine only, also from within a pod.")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of this machine in the answer.")] = "",
    address: Annotated[
        str, typer.Option(help="Its address; default: that of the default route.")
    ] = "",
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Another node to reach from here: HOST or HOST:PORT,PORT. Repeatable."),
    ] = None,
    resolve: Annotated[
        list[str] | None, typer.Option(help="A host name to look up. Repeatable.")
    ] = None,
    no_ports: Annotated[
        bool, typer.Option("--no-ports", help="Not whether our ports are free here.")
    ] = False,
    kubelet_dir: Annotated[Path, typer.Option(help="Kubelet's folder on nodes.")] = Path(
        KUBELET_DIR
    ),
    image: Annotated[
        str,
        typer.Option(help="Kubernetes: image of the pods that look at nodes without pods of ours."),
    ] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Look whether a machine, or a Kubernetes and its nodes, are fit for Drystone.

    Nothing is changed. With Kubernetes, nodes are looked at from pods of ours, and where there
    are none from short-lived privileged pods. Ends with 1 where something is a problem.

    For example:

      drystone doctor

      drystone doctor --peer 10.0.0.2:8470,8490

      drystone --kube doctor
    """
    chosen = target.chosen()
    if chosen is not None and not node:
        from drystone_cli.doctor import kube_command  # noqa: PLC0415 - only with Kubernetes

        data = kube_command.look(chosen, str(kubelet_dir), image)
    else:
        from drystone_cli.doctor import gather, net, node_checks  # noqa: PLC0415 - only this one

        facts = gather.gather(
            name,
            kubelet_dir=str(kubelet_dir),
            peers=[net.parse_peer(text) for text in peer or ()],
            names=resolve or (),
            ports=not no_ports,
            address=address,
        )
        data = answer(node_checks.check_node(facts)) | {"facts": facts.as_dict()}
    emit(output, data, text(data["findings"]))
    if not data["healthy"]:
        raise typer.Exit(int(ExitCode.FAILED))


def text(findings: Sequence[dict[str, Any]]) -> str:
    """The table: what is worst comes first."""
    order = ("problem", "warning", "unknown", "ok")
    found = sorted(findings, key=lambda f: order.index(f["level"]))
    rows = [(f["check"], f["node"], f["level"], f["message"], f["todo"]) for f in found]
    return table(("CHECK", "NODE", "RESULT", "FOUND", "WHAT TO DO"), rows)
