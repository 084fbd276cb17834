"""A manager that answers the operator's calls from a few dictionaries."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import unquote

import httpx

Json = dict[str, Any]

CLUSTER = "11111111-2222-3333-4444-555555555555"


class FakeManager:
    """What a test says a cluster is, and what was asked of it."""

    def __init__(self) -> None:
        self.uuid = CLUSTER
        self.nodes: list[Json] = []
        self.drives: list[Json] = []
        self.pools: dict[str, Json] = {}
        self.volumes: list[str] = []
        self.attached: dict[str, list[str]] = {}
        """Consuming nodes that hold a volume, by its id."""
        self.looks = 0
        self.devices: dict[str, list[Json]] = {}
        self.wanted: dict[str, list[Json]] = {}
        self.pgs = {"total": 64, "in_sync": 64, "degraded": 0, "resyncing": 0, "stalled": 0,
                    "unavailable": 0}  # fmt: skip
        self.health = "ok"
        self.issues: list[str] = []
        self.up = True
        self.fence_proves = True
        self.no_room = False
        self.passes = True
        self.unsafe = False
        self.silent_servers = False
        """Servers take disks, and do not say yet which drive became of each."""
        self.calls: list[tuple[str, str, Json]] = []
        self.tokens: set[str] = set()

    def transport(self) -> httpx.MockTransport:
        """For an httpx client."""
        return httpx.MockTransport(self._handle)

    def add_node(self, name: str, role: str = "server", *, connected: bool = True) -> None:
        """A registered node."""
        self.nodes.append(
            {"name": name, "role": role, "connected": connected, "version": "0.1.0", "uuid": name}
        )

    def connect(self, name: str, *, connected: bool) -> None:
        """A node comes or goes."""
        for node in self.nodes:
            if node["name"] == name:
                node["connected"] = connected

    def add_drive(self, node: str, number: int, state: str = "up") -> None:
        """A drive of a node."""
        self.drives.append(
            {"id": number, "uuid": f"drive-{number}", "node": node, "state": state, "reason": None,
             "capacity": 1 << 40, "used": 1 << 30, "resync_bytes_left": 0, "bad_blocks": 0,
             "pgs": {"in_sync": 8, "joining": 0, "out": 0}}
        )  # fmt: skip

    def called(self, method: str, path: str) -> list[Json]:
        """Bodies of calls of a path."""
        return [body for m, p, body in self.calls if m == method and p == path]

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if not self.up:
            raise httpx.ConnectError("connection refused")
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            return _problem(401, "unauthenticated", "no token")
        body = json.loads(request.content) if request.content else {}
        path = request.url.path.removeprefix("/v1")
        if request.method != "GET":
            self.calls.append((request.method, path, body))
        return self._route(request.method, path.strip("/").split("/"), body)

    def _route(self, method: str, parts: list[str], body: Json) -> httpx.Response:
        if method == "GET":
            return self._read(parts)
        if parts[0] == "pools":
            return self._pools(method, parts, body)
        if parts[0] == "join-tokens":
            token = f"token-{body['role']}-{body['name']}"
            self.tokens.add(token)
            return httpx.Response(201, json={"token": token})
        if parts[0] == "clients":
            return self._fence(parts[1])
        if parts[2:3] == ["drives"]:
            return self._drives(method, parts[1], "/".join(parts[3:]), body)
        return self._leave(method, parts, body)

    def _leave(self, method: str, parts: list[str], body: Json) -> httpx.Response:
        """What takes drives and nodes away, for a while or for good."""
        if parts[2:] == ["retest"]:
            return self._retest(int(parts[1]))
        if parts[2:] == ["evacuate"]:
            return self._evacuate(int(parts[1]), on=method == "POST")
        if parts[2:] == ["maintenance"]:
            return self._maintenance(parts[1], body if method == "POST" else None)
        if parts[0] == "nodes" and len(parts) == 2:
            self.nodes = [n for n in self.nodes if n["name"] != parts[1]]
            return httpx.Response(204)
        return _problem(404, "not_found", "/".join(parts))

    def _read(self, parts: list[str]) -> httpx.Response:
        if parts == ["status"]:
            self.looks += 1
            return httpx.Response(200, json=self._status())
        if parts == ["pools"]:
            return _page(list(self.pools.values()))
        if parts == ["volumes"]:
            return _page([*(self._volume(name) for name in self.volumes), *self._held()])
        if parts[2:] == ["drives"]:
            return _page(self.wanted.get(parts[1], []))
        if parts[2:] == ["devices"]:
            items = self.devices.get(parts[1], [])
            return httpx.Response(200, json={"connected": True, "items": items})
        return _problem(404, "not_found", "/".join(parts))

    def _evacuate(self, number: int, *, on: bool) -> httpx.Response:
        if on and self.no_room:
            return _problem(409, "no_room", "what it holds can go nowhere")
        (found,) = (d for d in self.drives if d["id"] == number)
        found["evacuating"] = on
        return httpx.Response(200, json=found)

    def _retest(self, number: int) -> httpx.Response:
        """As a manager does: forgiven, tested, and up or down until the next test."""
        (found,) = (d for d in self.drives if d["id"] == number)
        found.update(strikes=[], ejected=False)
        if self.passes:
            found.update(state="up", retest=None)
        else:
            found.update(retest={"tries": 1, "last": "52.0 ms, others 0.4 ms"})
        return httpx.Response(202, json={"id": 1, "kind": "retest", "state": "running"})

    def _maintenance(self, name: str, body: Json | None) -> httpx.Response:
        if body is not None and self.unsafe:
            return _problem(409, "maintenance_unsafe", "1 PG has its only copy there")
        (found,) = (n for n in self.nodes if n["name"] == name)
        if body is None:
            found["maintenance"] = None
            return httpx.Response(204)
        until = int(time.time()) + body["for_s"]
        found["maintenance"] = {"until_s": until, "reason": body["reason"], "ended": False}
        return httpx.Response(201, json=found["maintenance"])

    def _volume(self, name: str) -> Json:
        nodes = [{"node": node} for node in self.attached.get(name, [])]
        return {"name": name, "id": name, "pool": "fast", "attachments": nodes,
                "publications": []}  # fmt: skip

    def _held(self) -> list[Json]:
        """Volumes that tests only name as attached."""
        names = [name for name in self.attached if name not in self.volumes]
        return [self._volume(name) for name in names]

    def _fence(self, name: str) -> httpx.Response:
        if not self.fence_proves:
            return _problem(504, "fence_unproven", "drives [2] did not confirm")
        for nodes in self.attached.values():
            if name in nodes:
                nodes.remove(name)
        return httpx.Response(200, json={"node": name, "volumes": []})

    def _pools(self, method: str, parts: list[str], body: Json) -> httpx.Response:
        if method == "POST":
            return self._pool(body)
        if method == "PATCH":
            self.pools[parts[1]] |= body
            return httpx.Response(200, json=self.pools[parts[1]])
        if self.volumes:
            return _problem(409, "pool_in_use", f"pool {parts[1]} has volumes")
        del self.pools[parts[1]]
        return httpx.Response(204)

    def _status(self) -> Json:
        return {
            "health": self.health, "issues": self.issues, "cluster": self.uuid, "map_revision": 7,
            "nodes": self.nodes, "drives": self.drives, "pgs": self.pgs,
            "resync": {"bytes_left": 0, "bytes_done": 0},
        }  # fmt: skip

    def _take(self, node: str, body: Json) -> httpx.Response:
        device = next((d for d in self.devices[node] if d["id"] == body["device"]), None)
        if device is None or device["state"] not in ("blank", "ours"):
            return _problem(409, "device_not_blank", "the device holds an ext4 file system")
        if self.silent_servers:
            device["wanted"] = {"state": "up"}
            return httpx.Response(201, json={"device": body["device"]})
        number = len(self.drives) + 1
        self.add_drive(node, number)
        device["state"], device["drive"] = "ours", f"drive-{number}"
        return httpx.Response(201, json={"device": body["device"]})

    def _drives(self, method: str, node: str, device: str, body: Json) -> httpx.Response:
        if method == "POST":
            return self._take(node, body)
        have = self.wanted.get(node, [])
        self.wanted[node] = [d for d in have if d["device"] != unquote(device)]
        return httpx.Response(204)

    def _pool(self, body: Json) -> httpx.Response:
        made = {
            "id": len(self.pools) + 1, "min_insync": 2, "capacity": 3 << 40, "used": 0,
            "available": 3 << 40, "pgs": self.pgs, **body,
        }  # fmt: skip
        self.pools[body["name"]] = made
        return httpx.Response(201, json=made)


def _page(items: list[Json]) -> httpx.Response:
    return httpx.Response(200, json={"items": items, "next_cursor": None})


def _problem(status: int, code: str, detail: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": detail, "title": code})
