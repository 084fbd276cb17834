"""kopf: what is watched, indexed and what kicks. No handler does work of its own.

Only a change of what is read from an object kicks: kubelets write the heartbeat of every node, and
a round over everything at each of them would be all that an idle cluster's operator does.

kopf's own finalizer and annotations are never needed: there is no handler of changes. They have
our prefix all the same, so that a version that needs them collides with nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import kopf

from drystone_operator import names
from drystone_operator.apply.paths import BY_KIND
from drystone_operator.handlers.world import OWN_KINDS, WORKLOADS, Index
from drystone_operator.plan import read

WATCH_S: Final = 300
"""A watch is renewed after this: one that died without a word is noticed then at the latest."""

SILENT_S: Final = 70
"""A stream without a byte for this long is dead; kopf asks for bookmarks each minute."""

CONNECT_S: Final = 10
BACKOFFS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)

Login = Callable[..., Any]


class Wiring:
    """A registry of its own, the indexes that kopf fills, and whom to kick."""

    def __init__(self, kick: Callable[[], None], login: Login) -> None:
        self._kick = kick
        self._indexes: dict[str, Index] = {}
        self._seen: dict[str, dict[str, Any]] = {}
        self.registry = kopf.OperatorRegistry()
        kopf.on.login(registry=self.registry)(login)
        kopf.on.startup(registry=self.registry)(self._start)
        for kind in OWN_KINDS:
            self._watch(kind, _own)
        for kind in WORKLOADS:
            self._watch(kind, _workload(kind), labels={names.LABEL_CLUSTER: kopf.PRESENT})
        self._watch("Pod", _pod, labels={names.LABEL_CLUSTER: kopf.PRESENT})
        self._watch("Node", _node)

    def indexes(self) -> Mapping[str, Index]:
        """The indexes by kind; empty before the start."""
        return self._indexes

    def _watch(self, kind: str, index: Callable[..., Any], **filters: Any) -> None:
        resource = BY_KIND[kind]
        where = (resource.group, resource.version, resource.plural)
        kopf.index(*where, id=kind, registry=self.registry, **filters)(index)
        kick = self._kicking(kind, index)
        kopf.on.event(*where, id=f"kick-{kind}", registry=self.registry, **filters)(kick)

    async def _start(self, **kwargs: Any) -> None:
        for kind in (*OWN_KINDS, *WORKLOADS, "Pod", "Node"):
            self._indexes[kind] = kwargs[kind]

    def _kicking(self, kind: str, index: Callable[..., Any]) -> Callable[..., Any]:
        """A handler of a kind's events that kicks where what is read has changed."""
        seen = self._seen.setdefault(kind, {})

        async def event(body: Any, type: str | None, **about: Any) -> None:  # noqa: A002 - kopf's
            uid = str(body["metadata"].get("uid", ""))
            now = None if type == "DELETED" else _telling(index(body=body, **about))
            if now is None:
                seen.pop(uid, None)
            elif seen.get(uid) == now:
                return
            else:
                seen[uid] = now
            self._kick()

        return event


def kopf_settings(request_timeout_s: float) -> kopf.OperatorSettings:
    """Kopf's settings: explicit times, our prefix, no events and no scanning of its own."""
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = f"{names.STATE_PREFIX}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(
        prefix=names.STATE_PREFIX
    )
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix=names.STATE_PREFIX
    )
    settings.posting.enabled = False
    # Namespaces are named in our settings and CRDs come with the chart: nothing to look out for.
    settings.scanning.disabled = True
    settings.watching.server_timeout = WATCH_S
    settings.watching.client_timeout = WATCH_S + CONNECT_S
    settings.watching.connect_timeout = CONNECT_S
    settings.watching.inactivity_timeout = SILENT_S
    settings.networking.request_timeout = request_timeout_s
    settings.networking.connect_timeout = CONNECT_S
    settings.networking.error_backoffs = BACKOFFS_S
    return settings


STATUS_READ: Final = ("clusterUUID", "state")
"""What rounds read of a status. Whatever else is there the operator writes itself, figures that
move with each byte written among them: they would make of every round the cause of the next."""


def _telling(read: Any) -> Any:
    """What an index gives, without what no round hangs on."""
    ((place, value),) = read.items()
    if not isinstance(value, dict):
        return place, value
    metadata = {k: v for k, v in value["metadata"].items() if k != "resourceVersion"}
    status = tuple(value["status"].get(name) for name in STATUS_READ)
    return place, (metadata, value["spec"], status)


def _own(body: Any, name: str, namespace: str, **_: Any) -> Any:
    return {(namespace, name): read.own(body)}


def _node(body: Any, name: str, **_: Any) -> Any:
    return {name: read.node(body)}


def _pod(body: Any, name: str, namespace: str, **_: Any) -> Any:
    return {(namespace, name): read.pod(body)}


def _workload(kind: str) -> Callable[..., Any]:
    def index(body: Any, name: str, namespace: str, **_: Any) -> Any:
        return {(namespace, name): (namespace, read.workload(body, kind))}

    return index
