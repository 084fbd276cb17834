"""A disk is replaced, a node removed, while a pod writes: nothing is short of a copy meanwhile."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from tests.e2e.kube import chart, engine, filler, spare
from tests.e2e.kube.chart import CLUSTER, NAMESPACE, wait_whole
from tests.e2e.kube.engine import Engine
from tests.e2e.kube.filler import MIB
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.ledger import Ledger
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import LabError, node_name
from tests.e2e.lib.waits import wait_for

WAIT_S: Final = 300.0
STORAGE: Final = "drystone.io/storage"
VICTIM: Final = 2  # scenarios after it lose the first and the last node, and their disks


def replace_a_disk(run: Run) -> None:
    """As docs/operator.md says: the new one In, the old one Evacuate, then Remove, then pulled."""
    kubectl, node = run.kubectl, node_name(VICTIM)
    ledger, data = Ledger(run.lab, kubectl), filler.write(run)
    ledger.start(node=node_name(1))
    old = _only(kubectl, node)
    file = run.lab.node(VICTIM) / "disks" / Path(old["status"]["path"]).name
    new = chart.make_disk(run.lab, VICTIM, 2 if file.name.endswith("-1.img") else 1)
    name = wait_for(lambda: _appeared(kubectl, node, old), f"the new disk {new.name}", WAIT_S, 0.5)
    kubectl.wait("storagedisk", name, lambda d: _state(d) == "Up", "Up", namespace=NAMESPACE,
                 deadline_s=WAIT_S)  # fmt: skip
    run.steps.say(f"{name} is in use")
    before, began = engine.copied(VICTIM), time.monotonic()
    disk = old["metadata"]["name"]
    _say(kubectl, disk, "Evacuate")
    kubectl.wait("storagedisk", disk, lambda d: _state(d) == "Evacuated", "Evacuated",
                 namespace=NAMESPACE, deadline_s=WAIT_S)  # fmt: skip
    took, moved = time.monotonic() - began, engine.copied(VICTIM) - before
    ledger.wait_writing()
    run.figures.add("disk-replace: to empty the old disk", took, "s")
    run.figures.add("disk-replace: bytes copied to the new one", moved / MIB, "MiB")
    run.steps.say(f"{disk} holds nothing any more: {moved / MIB:.0f} MiB in {took:.0f} s")
    _say(kubectl, disk, "Remove")
    kubectl.wait("storagedisk", disk, lambda d: _reason(d) == "Removed", "Removed",
                 namespace=NAMESPACE, deadline_s=WAIT_S)  # fmt: skip
    file.unlink()
    kubectl.wait("storagedisk", disk, lambda d: _state(d) == "Missing", "Missing",
                 namespace=NAMESPACE, deadline_s=WAIT_S)  # fmt: skip
    kubectl.delete("storagedisk", disk, NAMESPACE)
    kubectl.wait_gone("storagedisk", disk, NAMESPACE)
    wait_whole(kubectl)
    ledger.wait_writing()
    said = ledger.stop()
    run.figures.add("longest pause of a writer: disk-replace", said.longest_s, "s")
    data.check_and_remove()
    run.steps.say("the old disk is pulled; every record and every byte is as written")


def remove_a_node(run: Run) -> None:
    """As docs/operator.md says, "a node leaves for good"; the pod writes on another one."""
    kubectl, ledger = run.kubectl, Ledger(run.lab, run.kubectl)
    gone = spare.join(run)
    name, managers = node_name(gone), Engine(kubectl)
    ledger.start(node=node_name(1))
    data = filler.write(run)
    managers.wait_settled()
    held = int(managers.drive(name)["held"])
    if not held:
        raise LabError(f"{name} got no placement group, so nothing can be moved from it")
    run.steps.say(f"{name} holds {held} copies of placement groups")
    others = [n for n in spare.whole(run.lab).numbers() if n != gone]
    _select(run, gone)
    before, began = {n: engine.copied(n) for n in others}, time.monotonic()
    kubectl.run("patch", "storagenode", name, "-n", NAMESPACE, "--type=merge", "-p",
                '{"spec":{"removalPolicy":"Evacuate"}}')  # fmt: skip
    kubectl.wait("storagenode", name, _held, "held by the operator", namespace=NAMESPACE)
    kubectl.delete("storagenode", name, NAMESPACE)
    kubectl.wait("storagenode", name, lambda n: _removing(n) == "StillSelected", "StillSelected",
                 namespace=NAMESPACE, deadline_s=WAIT_S)  # fmt: skip
    kubectl.run("label", "node", name, f"{STORAGE}-")
    steps = _followed(run, name)
    took = time.monotonic() - began
    moved = sum(engine.copied(n) - before[n] for n in others)
    if managers.node(name) is not None:
        raise LabError(f"the object of {name} is gone, and the managers know it still")
    managers.wait_settled()
    ledger.wait_writing()
    run.figures.add("node-remove: from the deletion to the end of the object", took, "s")
    run.figures.add("node-remove: bytes copied to the others", moved / MIB, "MiB")
    run.steps.say(f"{name} was {', '.join(steps)}: {moved / MIB:.0f} MiB in {took:.0f} s")
    for disk in _disks(kubectl, name):
        _forget_disk(kubectl, disk["metadata"]["name"])
    spare.leave(run)
    _select(run, 0)
    wait_whole(kubectl)
    said = ledger.stop()
    run.figures.add("longest pause of a writer: node-remove", said.longest_s, "s")
    data.check_and_remove()
    run.steps.say(f"{name} is powered off for good; every record and every byte is as written")


def _forget_disk(kubectl: Kubectl, disk: str) -> None:
    """Delete the object of a disk whose node was removed, as its condition says."""
    kubectl.wait("storagedisk", disk, lambda d: _reason(d) == "NodeUnknown", "NodeUnknown",
                 namespace=NAMESPACE, deadline_s=WAIT_S)  # fmt: skip
    kubectl.delete("storagedisk", disk, NAMESPACE)
    kubectl.wait_gone("storagedisk", disk, NAMESPACE)


def _followed(run: Run, name: str) -> list[str]:
    """What `Removing` said, in order, until the object was gone."""
    seen: list[str] = []

    def gone() -> bool:
        found = run.kubectl.get("storagenode", name, NAMESPACE)
        if found is None:
            return True
        reason = _removing(found)
        if reason and reason not in seen:
            seen.append(reason)
            run.steps.say(f"{name}: {reason}: {_message(found)}")
        return False

    wait_for(gone, f"the object of {name} to be gone", 2 * WAIT_S, 0.3)
    if "Evacuating" not in seen:
        raise LabError(f"{name} was never emptied: {', '.join(seen)}")
    return seen


def _select(run: Run, last: int) -> None:
    """Have the cluster take nodes with a label, up to ``last``; 0 = every node, as before."""
    nodes = {"selector": {STORAGE: "true"}} if last else None
    for number in range(1, last + 1):
        run.kubectl.run("label", "node", node_name(number), f"{STORAGE}=true", "--overwrite")
    run.kubectl.run("patch", "storagecluster", CLUSTER, "-n", NAMESPACE, "--type=merge", "-p",
                    json.dumps({"spec": {"nodes": nodes}}))  # fmt: skip
    run.kubectl.wait("storagecluster", CLUSTER, chart.is_ready, "Ready with that selector",
                     namespace=NAMESPACE, deadline_s=WAIT_S)  # fmt: skip
    if not last:
        run.kubectl.run("label", "nodes", "--all", f"{STORAGE}-")


def _held(found: dict[str, Any]) -> bool:
    return bool(found["metadata"].get("finalizers"))


def _only(kubectl: Kubectl, node: str) -> dict[str, Any]:
    found = _disks(kubectl, node)
    if [_state(disk) for disk in found] != ["Up"]:
        raise LabError(f"{node} should have one disk that is Up: {json.dumps(found)[:500]}")
    return found[0]


def _disks(kubectl: Kubectl, node: str) -> list[dict[str, Any]]:
    found = kubectl.items("storagedisk", NAMESPACE)
    return [disk for disk in found if disk["spec"].get("nodeName") == node]


def _appeared(kubectl: Kubectl, node: str, old: dict[str, Any]) -> str:
    names = {disk["metadata"]["name"] for disk in _disks(kubectl, node)}
    return next(iter(names - {old["metadata"]["name"]}), "")


def _say(kubectl: Kubectl, disk: str, state: str) -> None:
    kubectl.run("patch", "storagedisk", disk, "-n", NAMESPACE, "--type=merge", "-p",
                json.dumps({"spec": {"state": state}}))  # fmt: skip


def _state(found: dict[str, Any]) -> str:
    return str(found.get("status", {}).get("state", ""))


def _reason(found: dict[str, Any], kind: str = "Ready") -> str:
    return chart.condition_field(found, kind, "reason")


def _removing(found: dict[str, Any]) -> str:
    return _reason(found, "Removing")


def _message(found: dict[str, Any]) -> str:
    return chart.condition_field(found, "Removing", "message")
