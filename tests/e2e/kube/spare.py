"""A node more: it joins the lab and the cluster while everything runs, and leaves again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Final

from tests.e2e.kube import chart, cluster, network, node, pki, seed
from tests.e2e.kube.kubectl import node_ready
from tests.e2e.kube.plain import archive
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import Lab, node_name
from tests.e2e.lib.waits import wait_for

READY_S: Final = 180.0
JOINED_S: Final = 300.0


def number(lab: Lab) -> int:
    """Which one it is: the first that the lab did not start with."""
    return lab.node_count + 1


def whole(lab: Lab) -> Lab:
    """The lab with it."""
    return replace(lab, node_count=number(lab))


def join(run: Run) -> int:
    """Power it on for the first time, and wait until its disk is in use; gives its number.

    One that a scenario before left is used as it is.
    """
    lab, mine = run.lab, number(run.lab)
    name = node_name(mine)
    if node.started(lab).pid(name) is None:
        _prepare(lab, mine)
        node.start(whole(lab), mine)
        node.wait_running(lab, mine)
        node.load(lab, mine, archive())
        run.steps.say(f"{name} is powered on")
    run.kubectl.wait("node", name, node_ready, "Ready", deadline_s=READY_S)
    wait_for(lambda: _in_use(run, name), f"the disk of {name} to be in use", JOINED_S, 0.5)
    chart.wait_whole(run.kubectl)
    return mine


def leave(run: Run) -> None:
    """Power it off for good: nothing of it is left in Kubernetes or on the machine."""
    lab, mine = run.lab, number(run.lab)
    node.kill(lab, mine)
    run.kubectl.delete("node", node_name(mine))
    run.kubectl.wait_gone("node", node_name(mine))
    network.unplug(lab, mine)
    cluster.tell(lab)
    shutil.rmtree(lab.node(mine), ignore_errors=True)


def _prepare(lab: Lab, mine: int) -> None:
    cluster.tell(whole(lab))  # `down` in another shell must know of it
    pki.make_node(lab, mine)
    network.add(mine)
    for other in lab.numbers():
        network.show(other, mine)
    seed.plant(seed.kept(lab), lab.node(mine) / "containerd")
    chart.make_disk(lab, mine)


def _in_use(run: Run, name: str) -> bool:
    found = run.kubectl.items("storagedisk", chart.NAMESPACE)
    mine = [disk for disk in found if disk["spec"].get("nodeName") == name]
    return any(disk.get("status", {}).get("state") == "Up" for disk in mine)
