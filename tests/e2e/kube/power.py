"""Power cuts: of the node under a pod that writes, and of every node at once."""

from __future__ import annotations

import time
from typing import Any, Final

from tests.e2e.kube import cluster, node
from tests.e2e.kube.chart import wait_whole
from tests.e2e.kube.kubectl import node_ready
from tests.e2e.kube.ledger import Ledger
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import LabError, node_name
from tests.e2e.lib.waits import wait_for

WAIT_S: Final = 300.0


def lose_a_node(run: Run) -> None:
    """The pod must run elsewhere with every record that was acknowledged, and no second writer."""
    ledger, victim = Ledger(run.lab, run.kubectl), run.lab.node_count
    ledger.start(node=node_name(victim))
    if ledger.node() != node_name(victim):
        raise LabError(f"the pod is on {ledger.node()}, not on {node_name(victim)}")
    before = ledger.said.acknowledged
    cut = time.monotonic()
    node.kill(run.lab, victim)
    run.steps.say(f"power cut of {node_name(victim)}, after record {before}")
    wait_for(lambda: len(ledger.said.writers) > 1, "the pod elsewhere", WAIT_S)
    after = time.monotonic() - cut
    ledger.wait_writing()
    run.figures.add("power cut of a node to its pod Running elsewhere", after, "s", "30 s")
    run.steps.say(f"the pod runs elsewhere {after:.1f} s after the cut")
    node.start(run.lab, victim)
    node.wait_running(run.lab, victim)
    _wait_nodes(run)
    ledger.wait_writing()
    ledger.stop()
    run.steps.say(f"{node_name(victim)} is back, everything in sync; nothing was lost or doubled")


def lose_all(run: Run) -> None:
    """Every node at once, and back, with nobody at the keyboard."""
    ledger = Ledger(run.lab, run.kubectl)
    ledger.start()
    cluster.each_node(run.lab, lambda number: node.kill(run.lab, number))
    run.steps.say("power cut of every node")
    began = time.monotonic()
    for number in run.lab.numbers():
        node.start(run.lab, number)
    cluster.each_node(run.lab, lambda number: node.wait_running(run.lab, number))
    wait_for(lambda: len(ledger.said.writers) > 1, "the pod to write again", WAIT_S)
    run.figures.add("power back on every node to a pod that writes", time.monotonic() - began, "s")
    _wait_nodes(run)
    ledger.stop()
    run.steps.say("cold start: the writer found everything that was acknowledged")


def lose_all_get_two(run: Run) -> None:
    """Every node at once, and one of them stays away: the others go on by themselves."""
    ledger, missing = Ledger(run.lab, run.kubectl), run.lab.node_count
    ledger.start(node=node_name(1))
    cluster.each_node(run.lab, lambda number: node.kill(run.lab, number))
    run.steps.say("power cut of every node")
    began = time.monotonic()
    back = [number for number in run.lab.numbers() if number != missing]
    for number in back:
        node.start(run.lab, number)
    for number in back:
        node.wait_running(run.lab, number)
    wait_for(lambda: len(ledger.said.writers) > 1, "the pod to write again", WAIT_S)
    run.figures.add(
        "power back on all nodes but one to a pod that writes", time.monotonic() - began, "s"
    )
    ledger.wait_writing()
    run.steps.say(f"cold start without {node_name(missing)}: the pod writes")
    began = time.monotonic()
    node.start(run.lab, missing)
    node.wait_running(run.lab, missing)
    _wait_nodes(run)
    run.figures.add("the node that was away, from its power to all in sync",
                    time.monotonic() - began, "s")  # fmt: skip
    ledger.wait_writing()
    ledger.stop()
    run.steps.say(f"{node_name(missing)} came back, every copy is in sync; nothing was lost")


def _wait_nodes(run: Run) -> None:
    for number in run.lab.numbers():
        run.kubectl.wait("node", node_name(number), _clean, "Ready and without taints",
                         deadline_s=WAIT_S)  # fmt: skip
    wait_whole(run.kubectl)


def _clean(found: dict[str, Any]) -> bool:
    return node_ready(found) and not found["spec"].get("taints")
