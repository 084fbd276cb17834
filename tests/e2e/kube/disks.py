"""A disk is lost and comes back, with a pod that writes."""

from __future__ import annotations

from typing import Any, Final

from tests.e2e.kube.chart import NAMESPACE, wait_whole
from tests.e2e.kube.disturb import COMPONENT
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.ledger import Ledger
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import node_name
from tests.e2e.lib.waits import wait_for

WAIT_S: Final = 300.0


def lose_and_return(run: Run) -> None:
    """Its file goes and the server that had it open restarts; later the file is there again."""
    kubectl, ledger, victim = run.kubectl, Ledger(run.lab, run.kubectl), run.lab.node_count
    disk = run.lab.node(victim) / "disks" / "disk-1.img"
    away = disk.with_suffix(".away")
    ledger.start(node=node_name(1))
    disk.rename(away)
    try:
        _restart_server(kubectl, node_name(victim))
        wait_for(
            lambda: _state(kubectl, node_name(victim)) not in ("Up", ""),
            "the disk to be missed", WAIT_S, 0.5,
        )  # fmt: skip
        ledger.wait_writing()
        state = _state(kubectl, node_name(victim))
        run.steps.say(
            f"the disk of {node_name(victim)} is away (StorageDisk {state}), writes go on"
        )
    finally:
        away.rename(disk)
    wait_for(
        lambda: _state(kubectl, node_name(victim)) == "Up", "the disk to be used again", WAIT_S, 0.5
    )
    wait_whole(kubectl)
    ledger.wait_writing()
    ledger.stop()
    run.steps.say("the disk is back and in sync")


def _restart_server(kubectl: Kubectl, node: str) -> None:
    pods = kubectl.items("pod", NAMESPACE, f"{COMPONENT}=server")
    pod = next(p for p in pods if p["spec"].get("nodeName") == node)
    kubectl.delete("pod", pod["metadata"]["name"], NAMESPACE)


def _state(kubectl: Kubectl, node: str) -> str:
    found: list[dict[str, Any]] = kubectl.items("storagedisk", NAMESPACE)
    mine = [disk for disk in found if disk["spec"].get("nodeName") == node]
    states = [disk.get("status", {}).get("state", "") for disk in mine]
    return str(states[0]) if states else ""
