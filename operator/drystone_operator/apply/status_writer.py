"""Status of our objects: written where it differs, with an event where a condition turned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from drystone_common.logs import get_logger
from drystone_operator import names
from drystone_operator.apply.interface import Kube, KubeError
from drystone_operator.apply.paths import BY_KIND
from drystone_operator.plan.actions import WriteStatus
from drystone_operator.plan.failover import Step
from drystone_operator.status import Condition, merge, transitions

Json = dict[str, Any]

REMEMBERED_MAX: Final = 4096
"""Objects of ours there can be in a large cluster, some times over; the oldest are forgotten."""

_log = get_logger(__name__)


class Objects(Protocol):
    """What is known of our objects without asking: metadata, spec and status."""

    def find(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        """One object as it was seen last."""


class StatusWriter:
    """Writes status by server-side apply, under a field manager of its own."""

    def __init__(self, kube: Kube, objects: Objects, now: Callable[[], str]) -> None:
        self._kube = kube
        self._objects = objects
        self._now = now
        # A watch tells of our own write a moment late; until then this is the newer word.
        self._written: dict[str, Json] = {}

    async def write(self, namespace: str, wanted: WriteStatus) -> None:
        """Write, unless everything is there already; an object that is gone is passed over."""
        seen = self._objects.find(wanted.kind, namespace, wanted.name)
        if seen is None:
            return
        uid = str(seen.get("metadata", {}).get("uid", ""))
        old = self._written.get(uid) or seen.get("status") or {}
        generation = int(seen.get("metadata", {}).get("generation", 0))
        conditions = old.get("conditions") or []
        status: Json = {
            "observedGeneration": generation,
            "conditions": merge(conditions, wanted.conditions, generation, self._now()),
            **wanted.fields,
        }
        if status == {key: value for key, value in old.items() if key in status}:
            return
        resource = BY_KIND[wanted.kind]
        body = {
            "apiVersion": names.API_VERSION,
            "kind": wanted.kind,
            "metadata": {"name": wanted.name, "namespace": namespace},
            "status": status,
        }
        path = resource.path(namespace, wanted.name, "status")
        try:
            await self._kube.apply(path, body, manager=names.STATUS_MANAGER)
        except KubeError as error:
            if error.status != 404:  # noqa: PLR2004 - deleted meanwhile
                raise
            return
        self._remember(uid, status)
        for condition in transitions(conditions, wanted.conditions):
            await self._event(namespace, wanted.kind, seen, condition)

    def _remember(self, uid: str, status: Json) -> None:
        self._written.pop(uid, None)
        self._written[uid] = status
        while len(self._written) > REMEMBERED_MAX:
            self._written.pop(next(iter(self._written)))

    async def _event(
        self, namespace: str, kind: str, about: Mapping[str, Any], condition: Condition
    ) -> None:
        """Tell people who look with `kubectl describe`; failing to tell stops nothing."""
        metadata = about.get("metadata", {})
        now = self._now()
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata.get('name')}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": kind,
                "name": metadata.get("name"),
                "namespace": namespace,
                "uid": metadata.get("uid"),
            },
            "type": "Normal" if good(condition) else "Warning",
            "reason": condition.reason,
            "message": condition.message,
            "source": {"component": names.FIELD_MANAGER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._kube.create(BY_KIND["Event"].path(namespace), body)
        except KubeError as error:
            _log.warning("event_not_posted", reason=condition.reason, error=str(error))


UNWANTED: Final = {
    "Maintenance": ("Unsafe", "Over"),
    "Removing": ("Refused", "StillSelected", "ManagerUnreachable"),
}
"""Reasons of conditions that are otherwise as somebody wanted it."""


WANTED: Final = ("Maintenance", "Removing", "Removed")
"""Reasons why something is not ready that somebody asked for."""


def good(condition: Condition) -> bool:
    """Whether a person need not care: Ready and Secured are good, the others are not."""
    if condition.type in ("Ready", "Secured"):
        return condition.status is True or condition.reason in WANTED
    if condition.type == "Fenced":
        # Not fenced is what a node is too that was just lost: only one that is well is good.
        return condition.reason == Step.WELL.value
    if condition.type in UNWANTED:
        return condition.reason not in UNWANTED[condition.type]
    return condition.status is False or condition.type in ("Progressing", "Draining")
