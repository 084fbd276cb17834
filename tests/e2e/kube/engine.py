"""What the managers of the operated cluster say, asked from the host over their own TLS."""

from __future__ import annotations

import base64
import contextlib
import re
import ssl
import urllib.request
from typing import Any, Final

from tests.e2e.kube.chart import CLUSTER, NAMESPACE
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.rest import Manager, RefusedError
from tests.e2e.kube.settings import LabError, node_address
from tests.e2e.lib.waits import NotSeenError, wait_for

REST: Final = 8460
SERVER_METRICS: Final = 8491
CALL_S: Final = 10.0
LEADER_S: Final = 120.0  # an election, and on a machine with other work some more
WAIT_S: Final = 300.0
COPIED: Final = "drystone_server_drive_resync_bytes_total"


class Engine:
    """The cluster beneath the objects; whichever manager answers is asked."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        self._token = base64.b64decode(_data(kubectl, "secret", "tokens")["admin"]).decode().strip()
        self._tls = ssl.create_default_context(cadata=_data(kubectl, "configmap", "ca")["ca.crt"])
        self._tls.check_hostname = False  # pods are reached by address, certificates have names

    def get(self, path: str) -> dict[str, Any]:
        """Ask."""
        return self.call("GET", path)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask or tell the managers until one does it: for a moment none may lead."""
        said: list[str] = []

        def one_did() -> tuple[dict[str, Any]] | None:
            found, said[:] = self._in_turn(method, path, body)
            return None if found is None else (found,)  # an answer may be empty

        try:
            done = wait_for(one_did, "a manager", LEADER_S, 0.5)
        except NotSeenError as error:
            words = "; ".join(said) or "none runs"
            raise LabError(f"no manager did {method} {path}: {words}") from error
        return done[0] if done else {}

    def _in_turn(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """The first answer, and what those said that did not do it."""
        said: list[str] = []
        for pod in self._kubectl.items("pod", NAMESPACE, "app.kubernetes.io/component=manager"):
            address = pod.get("status", {}).get("podIP")
            if not address:
                continue
            manager = Manager(f"https://{address}:{REST}", self._token, self._tls)
            try:
                return manager.call(method, path, body), said
            except RefusedError:
                raise
            except LabError as error:
                said.append(str(error))
        return None, said

    def drive(self, node: str, uuid: str = "") -> dict[str, Any]:
        """The drive of a node, or the one of a uuid there, as `/v1/status` has it."""
        found = [d for d in self.get("/v1/status")["drives"] if d["node"] == node]
        return next(d for d in found if uuid in ("", d["uuid"]))

    def node(self, name: str) -> dict[str, Any] | None:
        """A storage node; None where the managers know none of the name."""
        nodes: list[dict[str, Any]] = self.get("/v1/status")["nodes"]
        return next((n for n in nodes if n["name"] == name and n["role"] == "server"), None)

    def settled(self) -> bool:
        """Whether every copy is where it shall be, and in sync."""
        with contextlib.suppress(LabError):
            moves = [p["moves"] for p in self.get("/v1/pools")["items"]]
            status = self.get("/v1/status")
            pgs = status["pgs"]
            still = all(m["left"] == 0 and m["running"] == 0 for m in moves)
            return still and status["health"] == "ok" and pgs["in_sync"] == pgs["total"]
        return False

    def wait_settled(self, deadline_s: float = WAIT_S) -> None:
        """Wait for that."""
        wait_for(self.settled, "every copy to be where it shall be", deadline_s, 0.5)


def copied(number: int) -> int:
    """Bytes that the drives of a lab node got from others, since its server opened them."""
    url = f"http://{node_address(number)}:{SERVER_METRICS}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=CALL_S) as answer:
            text = answer.read().decode()
    except OSError as error:
        raise LabError(f"{url}: {error}") from error
    values = re.findall(rf"^{COPIED}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    return int(sum(float(value) for value in values))


def _data(kubectl: Kubectl, kind: str, part: str) -> dict[str, str]:
    found = kubectl.get(kind, f"{CLUSTER}-{part}", NAMESPACE)
    if found is None:
        raise LabError(f"there is no {kind} {CLUSTER}-{part}")
    return dict(found["data"])
