"""What `drystone local status` shows: the processes, and the manager's view if it answers."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from drystone_common.errors import DrystoneError
from drystone_common.files import read_json
from drystone_storaged.agent.failover import PROBE_S
from drystone_storaged.agent.rest import LOOK_S, Rest, read_token
from drystone_storaged.local import configs
from drystone_storaged.local.health import problems
from drystone_storaged.local.layout import Layout
from drystone_storaged.local.members import Members
from drystone_storaged.local.processes import Processes


class View:
    """One look at a cluster; nothing is changed."""

    def __init__(self, layout: Layout, members: Members, processes: Processes) -> None:
        self._layout = layout
        self._members = members
        self._processes = processes

    def shown(self) -> dict[str, Any]:
        """Everything, for programs."""
        shown: list[dict[str, Any]] = [
            {
                "name": p.name,
                "node": p.node,
                "process": p.kind,
                "state": self._processes.state(p),
                "pid": self._processes.pid(p),
                "log": str(self._layout.log(p.name)),
            }
            for p in configs.processes(self._members)
        ]
        for each in shown:
            if each["process"] == "manager":
                each["role"] = self._role(each["name"], each["state"])
        health, issues = self._health(shown)
        issues += [
            f"{p['name']} is frozen, `drystone local start {p['node']}` wakes it"
            for p in shown
            if p["state"] == "frozen"
        ]
        issues += self._refused_drives()
        return {
            "dir": str(self._layout.root),
            "health": health,
            "issues": issues,
            "processes": shown,
            "endpoints": read_endpoints(self._layout),
        }

    def _role(self, name: str, state: str) -> str | None:
        """What a manager says it is; None where it says nothing."""
        if state != "running":
            return None
        (manager,) = [m for m in self._members.managers() if m.name == name]
        token = read_token(self._layout.token_file)
        with suppress(DrystoneError), Rest(manager.rest_url(), token, timeout_s=PROBE_S) as rest:
            return str(rest.get("/v1/health").get("role"))
        return None

    def _health(self, shown: list[dict[str, Any]]) -> tuple[str, list[str]]:
        """The leader's view; without one, which process to start."""
        lacking = [
            p["name"] for p in shown
            if p["process"] in ("etcd", "manager") and p["state"] != "running"
        ]  # fmt: skip
        first = lacking[0] if lacking else self._members.manager.name
        silent = f"the manager does not answer: see its log, or `drystone local start {first}`"
        if all(p["state"] == "stopped" for p in shown if p["process"] == "manager"):
            return "critical", [silent]  # a search for the leader would only cost its time
        with suppress(DrystoneError), self._rest() as rest:
            found = rest.get("/v1/status")
            away = [f"{name} does not run: `drystone local start {name}`" for name in lacking]
            return found["health"], problems(found, self._members) + away
        return "critical", [silent]

    def _refused_drives(self) -> list[str]:
        """What running servers say of drives that they do not serve."""
        return [
            f"{process.node}: {reason}"
            for process in configs.processes(self._members)
            if process.kind == "server" and self._processes.pid(process)
            for reason in self._processes.refused_drives(process)
        ]

    def _rest(self) -> Rest:
        token = read_token(self._layout.token_file)
        return Rest(self._members.rest_urls(), token, timeout_s=LOOK_S)


def read_endpoints(layout: Layout) -> dict[str, Any]:
    """Endpoints as `cluster.json` has them."""
    data = read_json(layout.cluster_file)
    found = data.get("endpoints") if isinstance(data, dict) else None
    return found if isinstance(found, dict) else {}
