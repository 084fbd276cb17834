"""What is not watched but asked for at each look: Secrets, local volumes, the managers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from drystone_operator import names
from drystone_operator.apply import secrets
from drystone_operator.apply.interface import Kube
from drystone_operator.apply.paths import BY_KIND
from drystone_operator.plan.local_volumes import HOSTNAME, to_readopt, volume_names, wanted
from drystone_operator.plan.read import claims, node, pod
from drystone_operator.plan.tls import LEAF_S, TlsSeen, extra_names
from drystone_operator.plan.views import NodeView, PodView
from drystone_operator.resources.base import Build

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Secrets:
    """Which Secrets there are and with what keys; and the admin's token, never shown."""

    keys: Mapping[str, frozenset[str]]
    admin: str
    authority: str = ""
    """Certificate of the authority, where REST speaks TLS."""

    def __repr__(self) -> str:
        """Without the token."""
        return f"Secrets({sorted(self.keys)})"


async def read_secrets(kube: Kube, build: Build) -> Secrets:
    """Read the Secrets that a StorageCluster is about."""
    components = () if build.spec.is_external else ("master", "tokens", "join")
    wanted_names = {build.child(c) for c in (*components, "join-block")}
    wanted_names |= {ref.name for ref in build.spec.secrets}
    keys: dict[str, frozenset[str]] = {}
    admin = ""
    for name in sorted(wanted_names):
        found = await kube.get(BY_KIND["Secret"].path(build.namespace, name))
        if found is None:
            continue
        data = found.get("data") or {}
        keys[name] = frozenset(data)
        if name == build.tokens_secret:
            admin = secrets.decode(str(data.get("admin", ""))).strip()
    return Secrets(keys, admin, await _authority(kube, build))


async def _authority(kube: Kube, build: Build) -> str:
    external = build.spec.external
    if external is not None:
        if external.ca_secret_ref is None:
            return ""
        path = BY_KIND["Secret"].path(build.namespace, external.ca_secret_ref.name)
        data = ((await kube.get(path)) or {}).get("data") or {}
        return secrets.decode(str(data.get("ca.crt", "")))
    if not build.tls:
        return ""
    found = await kube.get(BY_KIND["ConfigMap"].path(build.namespace, build.child("ca")))
    return str(((found or {}).get("data") or {}).get("ca.crt", ""))


async def read_tls(kube: Kube, build: Build, now: datetime) -> TlsSeen:
    """The authority and the managers' certificate, where TLS is on."""
    if not build.tls:
        return TlsSeen()
    # Imported here: only a cluster with TLS needs it.
    from drystone_operator.apply import certificates  # noqa: PLC0415

    secret = await kube.get(BY_KIND["Secret"].path(build.namespace, build.child("ca"))) or {}
    data = secret.get("data") or {}
    pems = {
        key: secrets.decode(str(data.get(key, ""))) for key in ("ca.crt", "next.crt", "old.crt")
    }
    authority, successor, former = (certificates.read(pems[key]) for key in pems)
    pem = await _text(kube, build, "tls", "tls.crt")
    known = certificates.read(pem)
    annotations = (secret.get("metadata") or {}).get("annotations") or {}
    return TlsSeen(
        pems["ca.crt"],
        known.hosts if known else (),
        known.left_s(now) if known else 0.0,
        known.life_s if known else LEAF_S,
        issued=certificates.is_issued(pem, pems["ca.crt"]),
        used=authority.used(now) if authority else 0.0,
        asked=bool(annotations.get(names.ANNOTATION_RENEW)),
        successor=pems["next.crt"] if successor else "",
        successor_age_s=(now - successor.not_before).total_seconds() if successor else 0.0,
        former=pems["old.crt"] if former and former.left_s(now) > 0 else "",
        published=await _authority(kube, build),
        extra=extra_names(str(annotations.get(names.ANNOTATION_NAMES, ""))),
    )


async def _text(kube: Kube, build: Build, component: str, key: str) -> str:
    found = await kube.get(BY_KIND["Secret"].path(build.namespace, build.child(component)))
    return secrets.decode(str(((found or {}).get("data") or {}).get(key, "")))


@dataclass(frozen=True, slots=True)
class LocalVolumes:
    """The volumes that are folders of nodes: each one's node, and those whose claim is gone."""

    nodes: Mapping[str, str]
    released: tuple[str, ...]


async def read_local_volumes(kube: Kube, build: Build) -> LocalVolumes:
    """Look at each that can be there."""
    found: dict[str, str] = {}
    released: list[str] = []
    for component, count in wanted(build):
        for name in volume_names(build, component, count):
            body = await kube.get(BY_KIND["PersistentVolume"].path(name=name))
            if body is not None:
                found[name] = _pinned(body)
                released += [name] if to_readopt(build, body) else []
    return LocalVolumes(found, tuple(released))


def _pinned(body: Json) -> str:
    affinity = (body.get("spec") or {}).get("nodeAffinity") or {}
    for term in (affinity.get("required") or {}).get("nodeSelectorTerms") or ():
        for rule in term.get("matchExpressions") or ():
            if rule.get("key") == HOSTNAME and rule.get("values"):
                return str(rule["values"][0])
    return ""


async def namespace_goes(kube: Kube, namespace: str) -> bool:
    """Whether a whole namespace is being deleted."""
    found = await kube.get(BY_KIND["Namespace"].path(name=namespace))
    return ((found or {}).get("metadata") or {}).get("deletionTimestamp") is not None


async def read_pods(kube: Kube, build: Build) -> tuple[PodView, ...]:
    """Pods of a StorageCluster as they are now; the watch may be a moment behind."""
    found = [pod(body) async for body in kube.items(BY_KIND["Pod"].path(build.namespace))]
    return tuple(p for p in found if p.labels.get(names.LABEL_CLUSTER) == build.name)


async def read_nodes(kube: Kube) -> tuple[NodeView, ...]:
    """Every Node as it is now."""
    return tuple([node(body) async for body in kube.items(BY_KIND["Node"].path())])


async def pods_with_volumes(kube: Kube, on: str, driver: str) -> tuple[PodView, ...]:
    """Pods on a node, of any namespace, that use a volume of ours.

    Those that ended use none any more, and what they say of a job's end must stay.
    """
    found: list[PodView] = []
    pods = BY_KIND["Pod"].path()
    async for body in kube.items(pods, field_selector=f"spec.nodeName={on}"):
        view = pod(body)
        if view.finished:
            continue
        namespace = str(body["metadata"]["namespace"])
        handles = [await _handle(kube, namespace, claim, driver) for claim in claims(body)]
        ours = tuple(handle for handle in handles if handle)
        if ours:
            found.append(replace(view, volumes=ours))
    return tuple(sorted(found, key=lambda p: (p.namespace, p.name)))


async def _handle(kube: Kube, namespace: str, claim: str, driver: str) -> str:
    """The handle of the volume behind a claim; empty = none, or not ours."""
    body = await kube.get(BY_KIND["PersistentVolumeClaim"].path(namespace, claim))
    volume = str(((body or {}).get("spec") or {}).get("volumeName") or "")
    if not volume:
        return ""
    found = await kube.get(BY_KIND["PersistentVolume"].path(name=volume))
    csi = ((found or {}).get("spec") or {}).get("csi") or {}
    # A volume of ours without a handle is none that could be asked about; it is ours all the same.
    return str(csi.get("volumeHandle") or volume) if csi.get("driver") == driver else ""
