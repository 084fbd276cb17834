"""A node is worked on: refused while that is unsafe; then it may be away, and nothing is moved."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.e2e.kube import engine, filler, node, spare
from tests.e2e.kube.chart import NAMESPACE, condition_field, wait_whole
from tests.e2e.kube.engine import Engine
from tests.e2e.kube.filler import MIB
from tests.e2e.kube.kubectl import Kubectl, node_ready
from tests.e2e.kube.ledger import Ledger
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import LabError, node_name
from tests.e2e.lib.waits import wait_for

WAIT_S: Final = 300.0
OUT_S: Final = 20  # of the pool, instead of ten minutes: what is away for longer is made anew
AWAY_S: Final = 60.0  # several times that, with the time that it takes to be found away


def announce(run: Run) -> None:
    """With a node more than copies, so that what is away could be made anew elsewhere."""
    kubectl, victim = run.kubectl, run.lab.node_count
    other, name = spare.join(run), node_name(victim)
    managers = Engine(kubectl)
    managers.wait_settled()
    data = filler.write(run)
    here, there = Ledger(run.lab, kubectl), Ledger(run.lab, kubectl, "there")
    here.start(node=node_name(1))
    there.start(node=name)
    _refused_while_another_is_away(run, other, name)
    managers.wait_settled()
    managers.call("PATCH", "/v1/pools/default", {"out_time_s": OUT_S})
    try:
        _away(run, victim, (here, there))
    finally:
        managers.call("PATCH", "/v1/pools/default", {"out_time_s": 600})
    _maintain(kubectl, name, None)
    _wait_reason(kubectl, name, "None")
    for ledger in (here, there):
        ledger.wait_writing()
    there.stop()
    run.figures.add("longest pause of a writer elsewhere: maintenance",
                    here.stop().longest_s, "s")  # fmt: skip
    data.check_and_remove()
    run.steps.say("maintenance is over; every record and every byte is as written")


def _refused_while_another_is_away(run: Run, other: int, name: str) -> None:
    """It is asked for once, waits for the other node, and is granted when that is back."""
    whole = spare.whole(run.lab)
    node.kill(whole, other)
    wait_for(lambda: not _ready(run.kubectl, node_name(other)), "the other node to be missed",
             WAIT_S, 0.5)  # fmt: skip
    until = datetime.now(UTC) + timedelta(hours=1)
    _maintain(run.kubectl, name, {"until": f"{until:%Y-%m-%dT%H:%M:%SZ}", "reason": "new fans"})
    _wait_reason(run.kubectl, name, "Unsafe")
    run.steps.say(f"maintenance of {name} with {node_name(other)} away: {_said(run.kubectl, name)}")
    node.start(whole, other)
    node.wait_running(whole, other)
    run.kubectl.wait("node", node_name(other), node_ready, "Ready", deadline_s=WAIT_S)
    _wait_reason(run.kubectl, name, "Granted")
    wait_whole(run.kubectl)
    run.steps.say(f"{node_name(other)} is back: {_said(run.kubectl, name)}")


def _away(run: Run, victim: int, ledgers: tuple[Ledger, Ledger]) -> None:
    kubectl, name, (here, there) = run.kubectl, node_name(victim), ledgers
    others = [n for n in spare.whole(run.lab).numbers() if n != victim]
    pods = _pods(kubectl, name)
    before = {n: engine.copied(n) for n in others}
    cut = time.monotonic()
    node.kill(run.lab, victim)
    here.wait_writing()
    run.steps.say(f"power cut of {name} in its maintenance; elsewhere is written")
    _wait_reason(kubectl, name, "Held", "Fenced")
    # What must not happen has no condition to wait for.
    threading.Event().wait(max(0.0, AWAY_S - (time.monotonic() - cut)))
    here.wait_writing()
    copied = sum(engine.copied(n) - before[n] for n in others)
    if copied:
        raise LabError(f"{copied} bytes were copied elsewhere while {name} was in maintenance")
    if _pods(kubectl, name) != pods:
        raise LabError(f"pods of {name} were moved: {sorted(pods)}, {sorted(_pods(kubectl, name))}")
    away = time.monotonic() - cut
    run.steps.say(f"away for {away:.0f} s: no byte copied, no pod moved: {_said(kubectl, name)}")
    began = time.monotonic()
    node.start(run.lab, victim)
    node.wait_running(run.lab, victim)
    kubectl.wait("node", name, node_ready, "Ready", deadline_s=WAIT_S)
    Engine(kubectl).wait_settled()
    wait_whole(kubectl)
    back = engine.copied(victim)
    run.figures.add("maintenance: bytes that the node copied when it was back", back / MIB, "MiB",
                    f"less than the {filler.MIB_WRITTEN} that it had")  # fmt: skip
    run.figures.add("maintenance: from its power to all in sync", time.monotonic() - began, "s")
    if back >= filler.MIB_WRITTEN * MIB:
        raise LabError(f"{name} copied {back} bytes, as if it had nothing")
    there.wait_writing()
    run.steps.say(f"{name} is back with {back / MIB:.1f} MiB copied; its pod writes again")


def _pods(kubectl: Kubectl, name: str) -> set[str]:
    """Pods with volumes there."""
    found = kubectl.items("pod", "default")
    return {p["metadata"]["uid"] for p in found if p["spec"].get("nodeName") == name}


def _ready(kubectl: Kubectl, name: str) -> bool:
    return condition_field(_object(kubectl, name), "Ready", "status") == "True"


def _object(kubectl: Kubectl, name: str) -> dict[str, Any]:
    return kubectl.get("storagenode", name, NAMESPACE) or {}


def _said(kubectl: Kubectl, name: str) -> str:
    found = _object(kubectl, name)
    words = (condition_field(found, "Maintenance", field) for field in ("reason", "message"))
    return ": ".join(words)


def _maintain(kubectl: Kubectl, name: str, what: dict[str, str] | None) -> None:
    kubectl.run("patch", "storagenode", name, "-n", NAMESPACE, "--type=merge", "-p",
                json.dumps({"spec": {"maintenance": what}}))  # fmt: skip


def _wait_reason(kubectl: Kubectl, name: str, reason: str, kind: str = "Maintenance") -> None:
    kubectl.wait(
        "storagenode", name,
        lambda found: condition_field(found, kind, "reason") == reason,
        f"{kind} {reason}", namespace=NAMESPACE, deadline_s=WAIT_S,
    )  # fmt: skip
