"""The ConfigMap with one settings file for each component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drystone_common.toml import Value, toml_text
from drystone_operator import names
from drystone_operator.resources.base import Build, Json, digest, thing

FUSE_STOP_WAIT_S: Final = 3600
"""A FUSE pod that is deleted goes on for so long, for volumes to be detached: time to drain a node
whose pod was deleted by mistake, or had a volume attached in the moment of its replacement."""


def settings_map(build: Build) -> Json:
    """C-settings."""
    found = thing(build, "ConfigMap", "v1", "settings")
    return {**found, "data": settings_files(build)}


def settings_files(build: Build) -> dict[str, str]:
    """Every settings file by its name; what differs by node comes by variables."""
    files: dict[str, dict[str, Value]] = {}
    if not build.spec.is_external:
        files["manager.toml"] = manager(build)
        files["server.toml"] = server(build)
        if build.platform.beacon_pods:
            files["beacon.toml"] = beacon(build)
    files["block.toml"] = block(build)
    if build.platform.fuse_pods:
        # Also where the attacher is another one by now: volumes attached before have FUSE still.
        files["fuse.toml"] = fuse(build)
    files["csi.toml"] = csi(build)
    return {name: toml_text(values) for name, values in files.items()}


def nodes_map(build: Build, fault_sets: Mapping[str, str]) -> Json:
    """C-nodes: a server's settings for each storage node, because its fault set is its own.

    The downward API knows no labels of a node, so the fault set cannot come by a variable.
    """
    found = thing(build, "ConfigMap", "v1", "nodes")
    common = server(build)
    data = {
        f"{node}.toml": toml_text({**common, "fault_set": fault_set} if fault_set else common)
        for node, fault_set in sorted(fault_sets.items())
    }
    return {**found, "data": data}


def settings_digest(build: Build, component: str) -> str:
    """Stands in the pod template: another setting is another version."""
    return digest(settings_files(build)[f"{component}.toml"])


def manager(build: Build) -> dict[str, Value]:
    """Settings of `drystone manager`."""
    ports = build.spec.network.ports
    values: dict[str, Value] = {
        "state_dir": "/var/lib/drystone/manager",
        "rest_listen": f"0.0.0.0:{ports.rest}",
        "control_listen": f"0.0.0.0:{ports.control}",
        "master_key_file": f"{names.MASTER_DIR}/master.key",
        "tokens_file": f"{names.TOKENS_DIR}/tokens",
        "metrics_listen": f"0.0.0.0:{build.metrics_port('manager')}",
    }
    values |= tls_files(build, server=True)
    if not build.tls:
        # A person switched TLS off; said in the Secured condition, not hidden.
        values["insecure_listen"] = True
    return values | metadata(build)


def metadata(build: Build) -> dict[str, Value]:
    """Where the manager's records are."""
    wanted = build.spec.metadata
    if wanted is None or wanted.etcd is None:
        return {}
    values: dict[str, Value] = {
        "metadata": "etcd",
        "etcd_endpoints": etcd_endpoints(build),
        # The name must not tell clusters apart by itself: two of one etcd lie beside each other.
        "etcd_namespace": f"/drystone/{build.namespace}/{build.name}",
    }
    if wanted.etcd.tls_secret_ref is not None:
        values["etcd_ca_file"] = "/etc/drystone/etcd-tls/ca.crt"
        if {"tls.crt", "tls.key"} <= build.etcd_keys:
            # Many an etcd asks for no certificate: then the Secret has none.
            values["etcd_cert_file"] = "/etc/drystone/etcd-tls/tls.crt"
            values["etcd_key_file"] = "/etc/drystone/etcd-tls/tls.key"
    if wanted.etcd.password_secret_ref is not None:
        values["etcd_password_file"] = "/etc/drystone/etcd-password/password"  # noqa: S105 - a path
    return values


def etcd_endpoints(build: Build) -> tuple[str, ...]:
    """`host:port` of every member of etcd, ours or a person's."""
    wanted = build.spec.metadata
    if wanted is None or wanted.etcd is None:
        return ()
    if wanted.etcd.endpoints is not None:
        return tuple(url.partition("://")[2] for url in wanted.etcd.endpoints)
    service, pod = build.child("etcd"), build.child("etcd")
    return tuple(
        f"{pod}-{n}.{service}.{build.namespace}.svc:{names.ETCD_CLIENT_PORT}"
        for n in range(build.etcd_replicas)
    )


def server(build: Build) -> dict[str, Value]:
    """Settings of `drystone server`; name and addresses come by variables."""
    rules = build.spec.disk_rules
    values: dict[str, Value] = {
        "state_dir": build.state_dir("server"),
        "managers": build.control_addresses,
        "discover": True,
    }
    if build.platform.beacon_pods:
        values["run_dir"] = build.run_dir
    if rules.folders:
        values["device_folders"] = tuple(rules.folders)
    return values | tls_files(build)


def beacon(build: Build) -> dict[str, Value]:
    """Settings of `drystone beacon`."""
    values: dict[str, Value] = {
        "state_dir": build.state_dir("beacon"),
        "managers": build.control_addresses,
        "run_dir": build.run_dir,
    }
    return values | tls_files(build)


def block(build: Build) -> dict[str, Value]:
    """Settings of `drystone block`."""
    values: dict[str, Value] = {
        "state_dir": build.state_dir("block"),
        "managers": build.control_addresses,
        "socket": f"{build.run_dir}/block.sock",
        "attacher": build.spec.csi.attacher,
    }
    if build.platform.fuse_pods:
        values["fuse_helper_socket"] = fuse_socket(build)
    return values | tls_files(build)


def fuse(build: Build) -> dict[str, Value]:
    """Settings of `drystone fuse-helper`: little, so that its pods age seldom."""
    return {
        "socket": fuse_socket(build),
        "state_dir": build.state_dir("block"),
        "stop_wait_s": FUSE_STOP_WAIT_S,
    }


def fuse_socket(build: Build) -> str:
    """Where block daemon and FUSE helper of a node meet."""
    return f"{build.run_dir}/fuse.sock"


def csi(build: Build) -> dict[str, Value]:
    """Settings of `drystone csi`, controller and node; what they differ in comes by variables."""
    values: dict[str, Value] = {
        "rest_urls": build.rest_urls,
        "token_file": f"{names.TOKENS_DIR}/operate",
        "attacher": build.spec.csi.attacher,
    }
    return values | tls_files(build)


def tls_files(build: Build, *, server: bool = False) -> dict[str, Any]:
    """Where certificates are; a client needs only what it verifies with."""
    external = build.spec.external
    if not build.tls and not (external and external.ca_secret_ref):
        return {}
    if not server:
        return {"tls_ca_file": f"{names.TLS_DIR}/ca.crt"}
    return {
        "tls_cert_file": f"{names.TLS_DIR}/tls.crt",
        "tls_key_file": f"{names.TLS_DIR}/tls.key",
    }
