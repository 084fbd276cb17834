"""Certificates: an authority once, the managers' certificate before it ends or lacks a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drystone_operator.plan.actions import Action, Apply, CreateSecret, IssueCertificate
from drystone_operator.resources.base import Build, Json, labels, thing

RENEW_S: Final = 30 * 86400.0
"""A third of its ninety days: an operator that is away for a month finds time enough."""


@dataclass(frozen=True, slots=True)
class TlsSeen:
    """The authority's certificate (empty = none yet), and the managers'."""

    authority: str = ""
    hosts: tuple[str, ...] = ()
    ends_in_s: float = 0.0


NOTHING: Final = TlsSeen()


def plan(build: Build, seen: TlsSeen) -> list[Action]:
    """What is missing. Clients get the authority by a ConfigMap: its key stays in its Secret."""
    if not build.tls:
        return []
    secret = build.child("ca")
    if not seen.authority:
        return [CreateSecret(secret, "authority", labels(build, "ca"))]
    found: list[Action] = [Apply(trust(build, seen.authority))]
    wanted = hosts(build)
    if set(seen.hosts) != set(wanted) or seen.ends_in_s < RENEW_S:
        found.append(IssueCertificate(build.child("tls"), secret, wanted))
    return found


def trust(build: Build, authority: str) -> Json:
    """ConfigMap C-ca: what everybody verifies with."""
    found = thing(build, "ConfigMap", "v1", "ca")
    return {**found, "data": {"ca.crt": authority}}


def hosts(build: Build) -> tuple[str, ...]:
    """Every name by which a manager is asked: its own, and its Services'."""
    found = list(build.manager_hosts)
    for service in (build.child("manager"), build.child("managers")):
        found += [f"{service}.{build.namespace}.svc", f"{service}.{build.namespace}", service]
    return (*found, "localhost", "127.0.0.1")
