"""Certificates: an authority, its successor in time, and the managers' certificate in time.

Nobody is shut out while the authority changes: clients trust the next one a day before it signs
anything, and the former one until it is over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from drystone_operator import names
from drystone_operator.plan.actions import (
    Action,
    Apply,
    CreateSecret,
    IssueCertificate,
    RenewAuthority,
)
from drystone_operator.resources.base import Build, Json, labels, thing

RENEW_SHARE: Final = 2 / 3
"""Of a life that may be over: a month of ninety days is left, for an operator that is away."""

LEAF_S: Final = 90 * 86400.0

OVERLAP_S: Final = 86400.0
"""Kubelet brings a ConfigMap within two minutes; a node may be away, a person has copies."""


@dataclass(frozen=True, slots=True)
class TlsSeen:
    """The authority's certificate (empty = none yet), what comes after it, and the managers'."""

    authority: str = ""
    hosts: tuple[str, ...] = ()
    ends_in_s: float = 0.0
    life_s: float = LEAF_S
    issued: bool = True
    """Whether the authority signed the managers' certificate."""
    used: float = 0.0
    """Share of the authority's life that is over."""
    asked: bool = False
    """Whether a person asked for another authority."""
    successor: str = ""
    successor_age_s: float = 0.0
    former: str = ""
    """The authority before; empty where it is over."""
    published: str = ""
    """What clients are given at present."""
    extra: tuple[str, ...] = ()
    """Names that a person wants besides: managers may be reached from outside."""


EXTRA_MAX: Final = 64  # names of a certificate travel in every handshake
HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

NOTHING: Final = TlsSeen()


def plan(build: Build, seen: TlsSeen) -> list[Action]:
    """What is missing. Clients get the authority by a ConfigMap: its key stays in its Secret."""
    if not build.tls:
        return []
    secret = build.child("ca")
    if not seen.authority:
        return [CreateSecret(secret, "authority", labels(build, "ca"))]
    found: list[Action] = [Apply(trust(build, seen))]
    if seen.successor:
        if _may_sign(seen):
            return [*found, RenewAuthority(secret, "promote")]
    elif seen.asked or seen.used >= RENEW_SHARE:
        found.append(RenewAuthority(secret, "prepare"))
    wanted = tuple(dict.fromkeys((*hosts(build), *seen.extra)))
    ends = seen.ends_in_s < seen.life_s * (1 - RENEW_SHARE)
    if set(seen.hosts) != set(wanted) or ends or not seen.issued:
        found.append(IssueCertificate(build.child("tls"), secret, wanted))
    return found


def _may_sign(seen: TlsSeen) -> bool:
    """Whether clients know the successor, or have nothing to lose."""
    known = seen.successor.strip() in seen.published and seen.successor_age_s >= OVERLAP_S
    return known or seen.used >= 1


def trust(build: Build, seen: TlsSeen) -> Json:
    """ConfigMap C-ca: what everybody verifies with."""
    found = thing(build, "ConfigMap", "v1", "ca")
    every = (seen.authority, seen.successor, seen.former)
    return {**found, "data": {"ca.crt": "".join(f"{pem.strip()}\n" for pem in every if pem)}}


def extra_names(text: str) -> tuple[str, ...]:
    """Names and addresses with commas between them, as a person writes; others are left out."""
    words = [word.strip().lower() for word in text.split(",")][:EXTRA_MAX]
    return tuple(filter(None, map(_name_or_address, words)))


def _name_or_address(word: str) -> str:
    try:
        return str(ip_address(word))  # as certificates show it: two spellings are one name
    except ValueError:
        return word if HOST.fullmatch(word) else ""


def hosts(build: Build) -> tuple[str, ...]:
    """Every name by which a manager is asked: its own, and its Services'."""
    service = build.child("managers")
    count = build.spec.manager_replicas
    found = [f"{build.child('manager')}-{n}.{service}" for n in range(count)]
    found += [build.child("manager"), service]
    spaces = ("", f".{build.namespace}", f".{build.namespace}.svc")
    every = [f"{name}{space}" for name in found for space in (*spaces, _domain(build))]
    # Whatever the managers' addresses are otherwise, they must be among the names.
    every += [host for host in build.manager_hosts if host not in every]
    return (*every, "localhost", "127.0.0.1", "::1")


def _domain(build: Build) -> str:
    # Ours never ask by the full name; for a cluster with another domain it is only not of use.
    return f".{build.namespace}.svc.{names.CLUSTER_DOMAIN}"
