"""A Kubernetes API server in this process: objects, watches, apply, status, finalizers, conflicts.

Only what an operator needs, but that as the real one does it: uid, resourceVersion, generation,
field owners of server-side apply, deletion that waits for finalizers, preconditions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from drystone_operator.apply.paths import RESOURCES
from tests.operator.fake_fields import apply, merged

Json = dict[str, Any]

WATCH_S_MAX = 60.0  # a watch of a test that hangs must end before the test's own limit


PAUSE_S = 0.05

WITH_STATUS = ("daemonsets", "statefulsets", "deployments", "nodes", "pods")


@dataclass(frozen=True)
class Kind:
    """A kind that is served."""

    kind: str
    group: str
    version: str
    plural: str
    namespaced: bool
    status: bool


def served_kinds() -> list[Kind]:
    """What the operator touches, and what kopf itself asks for."""
    found = [
        Kind(
            r.kind, r.group, r.version, r.plural, r.namespaced,
            bool(r.status) or r.plural in WITH_STATUS,
        )
        for r in RESOURCES
    ]  # fmt: skip
    extra = Kind(
        "CustomResourceDefinition",
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        False,
        False,
    )
    return [*found, extra]


class RefusedError(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeKube:
    """The objects, and everything that happened to them."""

    def __init__(self) -> None:
        self.kinds = {(k.group, k.plural): k for k in served_kinds()}
        self.objects: dict[tuple[str, str, str], Json] = {}
        self.history: list[tuple[int, str, str, Json]] = []
        self.requests: list[tuple[str, str]] = []
        self.refusing: dict[tuple[str, str], int] = {}
        """Status that a request of a method and a path is refused with."""
        self.owners: dict[tuple[str, str, str], dict[str, Json]] = {}
        self._revision = 0
        self._changed = asyncio.Event()
        self.closing = False

    # What tests use -----------------------------------------------------------------------

    def put(self, plural: str, body: Json) -> Json:
        """Make or replace an object, as somebody else would."""
        place = self._place(plural, body["metadata"].get("namespace", ""), body["metadata"]["name"])
        old = self.objects.get(place)
        return self._store(place, body, "MODIFIED" if old else "ADDED", old)

    def get(self, plural: str, name: str, namespace: str = "") -> Json | None:
        """An object."""
        return self.objects.get(self._place(plural, namespace, name))

    def all(self, plural: str, namespace: str = "") -> list[Json]:
        """Objects of a kind, by name."""
        return [
            body
            for (kind, space, _), body in sorted(self.objects.items())
            if kind == plural and namespace in ("", space)
        ]

    def change(self, plural: str, name: str, namespace: str, patch: Json) -> Json:
        """Merge into an object, status too."""
        place = self._place(plural, namespace, name)
        old = self.objects[place]
        return self._store(place, merged(old, patch), "MODIFIED", old)

    def remove(self, plural: str, name: str, namespace: str = "", **options: Any) -> None:
        """Delete, as a person does."""
        self._delete(self._place(plural, namespace, name), options)

    async def until(self, what: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until something holds of the objects."""
        async with asyncio.timeout(timeout_s):
            while not what():
                await self._next()

    async def _next(self) -> None:
        """Until anything changes; a look now and then, as not all conditions are about objects."""
        waiter = self._changed
        try:
            async with asyncio.timeout(0.1):
                await waiter.wait()
        except TimeoutError:
            return

    # Storage ------------------------------------------------------------------------------

    def _place(self, plural: str, namespace: str, name: str) -> tuple[str, str, str]:
        return plural, namespace, name

    def _store(self, place: tuple[str, str, str], body: Json, event: str, old: Json | None) -> Json:
        self._revision += 1
        body = json.loads(json.dumps(body))
        metadata = body.setdefault("metadata", {})
        before = (old or {}).get("metadata", {})
        metadata["uid"] = before.get("uid") or f"uid-{self._revision}"
        metadata["creationTimestamp"] = before.get("creationTimestamp", _time(self._revision))
        changed = old is None or body.get("spec") != old.get("spec")
        metadata["generation"] = before.get("generation", 0) + (1 if changed else 0)
        metadata["resourceVersion"] = str(self._revision)
        gone = metadata.get("deletionTimestamp") and not metadata.get("finalizers")
        if event == "DELETED" or gone:
            self.objects.pop(place, None)
            self.owners.pop(place, None)
            event = "DELETED"
        else:
            self.objects[place] = body
        self.history.append((self._revision, place[0], event, body))
        self._changed.set()
        self._changed = asyncio.Event()
        return body

    def _delete(self, place: tuple[str, str, str], options: Json) -> None:
        old = self.objects.get(place)
        if old is None:
            raise RefusedError(404, f"{place} not found")
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != old["metadata"]["uid"]:
            raise RefusedError(409, "the UID in the precondition does not match")
        if old["metadata"].get("finalizers"):
            if not old["metadata"].get("deletionTimestamp"):
                stamp = {"metadata": {"deletionTimestamp": _time(self._revision + 1)}}
                self._store(place, merged(old, stamp), "MODIFIED", old)
            return
        self._store(place, old, "DELETED", old)

    def _create(self, kind: Kind, namespace: str, body: Json) -> Json:
        metadata = body["metadata"]
        if "name" not in metadata:
            metadata["name"] = f"{metadata.get('generateName', 'x')}{self._revision}"
        place = self._place(kind.plural, namespace, metadata["name"])
        if place in self.objects:
            raise RefusedError(409, f"{metadata['name']} already exists")
        filled = {"apiVersion": _api_version(kind), "kind": kind.kind, **body}
        filled["metadata"] = {**metadata, **({"namespace": namespace} if namespace else {})}
        return self._store(place, filled, "ADDED", None)

    def _patch(
        self, kind: Kind, place: tuple[str, str, str], sub: str, request: web.Request, body: Json
    ) -> Json:
        old = self.objects.get(place)
        if "apply-patch" in request.headers.get("Content-Type", ""):
            return self._apply(kind, place, sub, request, body)
        if old is None:
            raise RefusedError(404, f"{place} not found")
        version = body.get("metadata", {}).get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise RefusedError(409, "the object has been modified")
        new = merged(old, body)
        kept = "status" if kind.status and not sub else "spec" if sub == "status" else ""
        if kept:
            new = {**new, kept: old.get(kept, {})}
        return self._store(place, new, "MODIFIED", old) if new != old else old

    def _apply(
        self, kind: Kind, place: tuple[str, str, str], sub: str, request: web.Request, body: Json
    ) -> Json:
        manager = request.query["fieldManager"]
        old = self.objects.get(place)
        if old is None and sub:
            raise RefusedError(404, f"{place} not found")
        owners = self.owners.setdefault(place, {})
        new, conflict = apply(old or {}, body, manager, owners)
        if conflict and request.query.get("force") != "true":
            raise RefusedError(409, f"Apply failed with a conflict: {conflict}")
        owners[manager] = body
        if place[1]:
            new.setdefault("metadata", {})["namespace"] = place[1]
        if old is not None and new == old:
            return old
        return self._store(place, new, "MODIFIED" if old else "ADDED", old)

    # HTTP ---------------------------------------------------------------------------------

    def app(self) -> web.Application:
        """The server."""
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        try:
            if (request.method, request.path) in self.refusing:
                raise RefusedError(self.refusing[request.method, request.path], "refused by a test")
            return await self._answer(request)
        except RefusedError as refused:
            body = {"kind": "Status", "status": "Failure", "message": str(refused)}
            return web.json_response({**body, "code": refused.status}, status=refused.status)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = [p for p in request.path.split("/") if p]
        if parts in (["api"], ["apis"], ["version"]) or len(parts) == (
            2 if parts[0] == "api" else 3
        ):
            return web.json_response(self._discovery(parts))
        group = "" if parts[0] == "api" else parts[1]
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        kind = self.kinds.get((group, rest[0]))
        if kind is None:
            raise RefusedError(404, f"no resource {group}/{rest[0]}")
        name, sub = (*rest[1:], "", "")[:2]
        if name:
            return await self._object(request, kind, self._place(kind.plural, namespace, name), sub)
        return await self._collection(request, kind, namespace)

    async def _object(
        self, request: web.Request, kind: Kind, place: tuple[str, str, str], sub: str
    ) -> web.Response:
        if request.method == "GET":
            found = self.objects.get(place)
            if found is None:
                raise RefusedError(404, f"{place} not found")
            return web.json_response(found)
        body = json.loads(await request.text() or "{}")
        if request.method == "DELETE":
            self._delete(place, body)
            return web.json_response({"kind": "Status", "status": "Success"})
        return web.json_response(self._patch(kind, place, sub, request, body))

    async def _collection(
        self, request: web.Request, kind: Kind, namespace: str
    ) -> web.StreamResponse:
        if request.method == "POST":
            body = json.loads(await request.text())
            return web.json_response(self._create(kind, namespace, body), status=201)
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(request, kind, namespace)
        items = [b for b in self.all(kind.plural, namespace) if _selected(b, request)]
        version = str(self._revision)
        listed = {"kind": f"{kind.kind}List", "apiVersion": _api_version(kind), "items": items}
        return web.json_response({**listed, "metadata": {"resourceVersion": version}})

    async def _watch(self, request: web.Request, kind: Kind, namespace: str) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        since = int(request.query.get("resourceVersion") or self._revision)
        try:
            async with asyncio.timeout(WATCH_S_MAX):
                while not self.closing:
                    for revision, plural, event, body in self.history:
                        space = body["metadata"].get("namespace", "")
                        if revision > since and plural == kind.plural and namespace in ("", space):
                            line = json.dumps({"type": event, "object": body})
                            await response.write(line.encode() + b"\n")
                    since = max(since, self._revision)
                    await self._next()
        except (TimeoutError, ConnectionError):
            pass
        # Whoever watches asks again at once: an end without a pause would be a busy loop of both.
        await asyncio.sleep(PAUSE_S)
        return response

    def _discovery(self, parts: list[str]) -> Json:
        if parts == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        if parts == ["version"]:
            return {"major": "1", "minor": "34"}
        if parts == ["apis"]:
            groups = sorted({(k.group, k.version) for k in self.kinds.values() if k.group})
            listed = [
                {
                    "name": group,
                    "versions": [{"version": version, "groupVersion": f"{group}/{version}"}],
                    "preferredVersion": {"version": version, "groupVersion": f"{group}/{version}"},
                }
                for group, version in groups
            ]
            return {"kind": "APIGroupList", "groups": listed}
        group = "" if parts[0] == "api" else parts[1]
        return {"kind": "APIResourceList", "resources": self._resources(group)}

    def _resources(self, group: str) -> list[Json]:
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        found: list[Json] = []
        for kind in self.kinds.values():
            if kind.group != group:
                continue
            shown = {"kind": kind.kind, "namespaced": kind.namespaced}
            found.append(
                {"name": kind.plural, "singularName": kind.kind.lower(), "verbs": verbs, **shown}
            )
            if kind.status:
                subresource = {"name": f"{kind.plural}/status", "singularName": ""}
                found.append({**subresource, "verbs": ["get", "patch"], **shown})
        return found


def _api_version(kind: Kind) -> str:
    return f"{kind.group}/{kind.version}" if kind.group else kind.version


def _selected(body: Json, request: web.Request) -> bool:
    wanted = request.query.get("fieldSelector", "")
    if wanted.startswith("spec.nodeName="):
        return bool(body.get("spec", {}).get("nodeName") == wanted.partition("=")[2])
    return True


def _time(tick: int) -> str:
    return f"2026-11-21T{tick // 3600 % 24:02}:{tick // 60 % 60:02}:{tick % 60:02}Z"


@asynccontextmanager
async def serving(kube: FakeKube) -> AsyncIterator[str]:
    """Serve on loopback; gives the address."""
    runner = web.AppRunner(kube.app(), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        kube.closing = True
        kube._changed.set()
        await runner.cleanup()
