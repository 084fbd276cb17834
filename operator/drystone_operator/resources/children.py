"""Everything that a StorageCluster consists of, in the order in which it is applied."""

from __future__ import annotations

from collections.abc import Mapping

from drystone_operator.models.common import Switch
from drystone_operator.resources import budgets, config, csi, daemons, etcd, manager
from drystone_operator.resources.base import Build, Json


def children(build: Build, fault_sets: Mapping[str, str]) -> tuple[Json, ...]:
    """Every object but Secrets, which are made once and never applied."""
    found: list[Json] = [config.settings_map(build)]
    if not build.spec.is_external:
        found += _storage(build, fault_sets)
    if build.platform.fuse_pods and build.spec.uses_fuse:
        # Before the block daemons, which ask it for every device.
        found.append(daemons.fuse(build))
    found.append(daemons.block(build))
    if build.spec.csi.driver is Switch.ENABLED:
        found += [csi.node(build), csi.controller(build), budgets.csi_controller(build)]
    return tuple(found)


def _storage(build: Build, fault_sets: Mapping[str, str]) -> list[Json]:
    found = [config.nodes_map(build, fault_sets)]
    if build.etcd_managed:
        found += [etcd.beginning(build), etcd.service(build)]
        found += [etcd.stateful_set(build), budgets.etcd(build)]
    found += [
        manager.headless(build),
        manager.service(build),
        manager.stateful_set(build),
        budgets.manager(build),
    ]
    if build.platform.beacon_pods:
        found.append(daemons.beacon(build))
    return [*found, daemons.server(build)]


def key(thing: Json) -> str:
    """`Kind/name`: how plans, logs and memories name an object."""
    return f"{thing['kind']}/{thing['metadata']['name']}"
