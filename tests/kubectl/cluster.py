"""A Kubernetes with a Drystone in it, for commands: API server, managers, logs, metrics."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiohttp import web

from tests.operator.fake_kube import FakeKube, Kind, RefusedError, serving

NAMESPACE = "storage"
NAME = "main"
TOKENS = {role: f"{role}-token-0123456789abcdef" for role in ("read", "operate", "admin")}

MORE_KINDS = (
    Kind("Event", "", "v1", "events", True, False),
    Kind("VolumeAttachment", "storage.k8s.io", "v1", "volumeattachments", False, False),
    Kind("StorageClass", "storage.k8s.io", "v1", "storageclasses", False, False),
    Kind("CSINode", "storage.k8s.io", "v1", "csinodes", False, False),
    Kind("CSIDriver", "storage.k8s.io", "v1", "csidrivers", False, False),
)

Json = dict[str, Any]


class CliKube(FakeKube):
    """What commands ask besides what the operator does: logs, metrics, labels, versions."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds |= {(k.group, k.plural): k for k in MORE_KINDS}
        self.logs: dict[str, str] = {}
        self.metrics: dict[str, str] = {}
        self.queries: list[str] = []
        self.version = "34"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(request.path_qs)
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": self.version})
        parts = request.path.strip("/").split("/")
        if parts[-1] == "log":
            key = f"{parts[5]}/{request.query['container']}/{request.query.get('previous', '')}"
            if key not in self.logs:
                raise RefusedError(400, "previous terminated container not found")
            return web.Response(text=self.logs[key])
        if "proxy" in parts:
            key = parts[parts.index("proxy") - 1]
            if key not in self.metrics:
                raise RefusedError(503, "error trying to reach service: refused")
            return web.Response(text=self.metrics[key])
        return await super()._answer(request)

    async def _collection(
        self, request: web.Request, kind: Kind, namespace: str
    ) -> web.StreamResponse:
        answer = await super()._collection(request, kind, namespace)
        wanted = request.query.get("labelSelector")
        if request.method == "DELETE" or not wanted or not isinstance(answer, web.Response):
            return answer
        listed = json.loads(answer.text or "{}")
        listed["items"] = [i for i in listed["items"] if _has(i, wanted)]
        return web.json_response(listed)


def _has(item: Json, selector: str) -> bool:
    labels = item["metadata"].get("labels", {})
    for part in selector.split(","):
        key, equals, value = part.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


@dataclass
class Manager:
    """A manager's REST: answers by path, and what was asked with which token."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    leads: bool = True
    valid: tuple[str, ...] = ()
    slow: str = ""
    """A path that is not answered before the end of the test."""
    ended: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def answer(self, method: str, path: str, token: str) -> tuple[int, Json]:
        self.asked.append((method, path, token))
        if path == self.slow:
            self.ended.wait(60)
        if self.valid and token not in self.valid:
            return 401, {"code": "unauthenticated", "detail": "a valid token is needed"}
        if path == "/v1/health":
            return 200, {"leader": self.leads, "role": "leader" if self.leads else "standby"}
        if not self.leads:
            return 503, {"code": "not_leader", "detail": "a standby"}
        found = self.answers.get(f"{method} {path}")
        return (200, found) if found is not None else (404, {"code": "not_found", "detail": path})


@contextmanager
def manager(tls: tuple[str, str] | None = None, **fields: Any) -> Iterator[Manager]:
    """Serve a manager; ``tls``: files of certificate and key."""
    made = Manager(**fields)

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            status, body = made.answer(self.command, self.path.partition("?")[0], token)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = do_PATCH = _any  # noqa: N815 - the library's names

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    made.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def api(kube: CliKube) -> Iterator[str]:
    """Serve a fake API server in a thread of its own; gives host:port."""
    ready, stop = threading.Event(), asyncio.Event()
    found: list[Any] = []

    async def work() -> None:
        async with serving(kube) as address:
            found[:] = [address.removeprefix("http://"), asyncio.get_running_loop()]
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(work(),), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield found[0]
    finally:
        found[1].call_soon_threadsafe(stop.set)
        thread.join(20)


def storage_cluster(**spec: Any) -> Json:
    """The StorageCluster."""
    return {
        "apiVersion": "drystone.io/v1alpha1", "kind": "StorageCluster", "spec": spec,
        "metadata": {"name": NAME, "namespace": NAMESPACE},
    }  # fmt: skip


def tokens_secret(**values: str) -> Json:
    """Its tokens."""
    given = values or TOKENS
    data = {role: base64.b64encode(token.encode()).decode() for role, token in given.items()}
    return {"metadata": {"name": f"{NAME}-tokens", "namespace": NAMESPACE}, "data": data}


def pod(component: str, node: str, number: int = 0, **status: Any) -> Json:
    """A pod of the cluster."""
    labels = {"drystone.io/cluster": NAME, "app.kubernetes.io/component": component}
    labels["app.kubernetes.io/name"] = "drystone"
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": f"{NAME}-{component}-{number}", "namespace": NAMESPACE,
                     "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": component, "image": "drystone:1"}]},
        "status": {"phase": "Running", "hostIP": "10.0.0.1", **status},
    }  # fmt: skip
