"""The managers: StatefulSet, the Service of REST, the headless one that names each of them."""

from __future__ import annotations

from drystone_operator import names
from drystone_operator.resources import config, stateful
from drystone_operator.resources.base import (
    Build,
    Json,
    container,
    field_env,
    from_config,
    from_secret,
    mount,
    plain_env,
    pod_template,
    readiness,
    selector,
    thing,
)


def service(build: Build) -> Json:
    """C-manager: REST and control for people; our processes go to each manager by name."""
    ports = build.spec.network.ports
    found = thing(build, "Service", "v1", "manager")
    found["spec"] = {
        "selector": selector(build, "manager"),
        "ports": [
            {"name": "rest", "port": ports.rest, "targetPort": ports.rest},
            {"name": "control", "port": ports.control, "targetPort": ports.control},
        ],
    }
    return found


def headless(build: Build) -> Json:
    """C-managers: a name for each manager, also while it is not ready."""
    ports = build.spec.network.ports
    found = thing(build, "Service", "v1", "manager", name=build.child("managers"))
    found["spec"] = {
        "clusterIP": "None",
        # One that is still starting has its name all the same: nobody waits for a DNS cache.
        "publishNotReadyAddresses": True,
        "selector": selector(build, "manager"),
        "ports": [
            {"name": "rest", "port": ports.rest, "targetPort": ports.rest},
            {"name": "control", "port": ports.control, "targetPort": ports.control},
        ],
    }
    return found


def stateful_set(build: Build) -> Json:
    """C-manager."""
    found = thing(build, "StatefulSet", "apps/v1", "manager")
    found["spec"] = {
        "replicas": build.spec.manager_replicas,
        "serviceName": build.child("managers"),
        # All at once: a standby need not wait for a leader.
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "selector": {"matchLabels": selector(build, "manager")},
        "template": _template(build),
    }
    if build.spec.is_sqlite:
        found["spec"]["volumeClaimTemplates"] = [stateful.claim(build, "manager")]
    return found


def _template(build: Build) -> Json:
    annotations = {names.ANNOTATION_SETTINGS: config.settings_digest(build, "manager")}
    pod = stateful.pod(build, "manager", _container(build), _volumes(build))
    return pod_template(build, "manager", pod, annotations)


def _container(build: Build) -> Json:
    ports = build.spec.network.ports
    mounts = [
        mount("settings", names.SETTINGS_DIR, read_only=True),
        mount("master", names.MASTER_DIR, read_only=True),
        mount("tokens", names.TOKENS_DIR, read_only=True),
        mount("state", "/var/lib/drystone/manager"),
        *(mount(name, path, read_only=True) for name, path, _ in _credentials(build)),
    ]
    found = container(
        build,
        "manager",
        ["manager", "--config", f"{names.SETTINGS_DIR}/manager.toml"],
        env=_environment(build),
        mounts=mounts,
    )
    found["ports"] = [
        {"name": "rest", "containerPort": ports.rest},
        {"name": "control", "containerPort": ports.control},
        {"name": "metrics", "containerPort": build.metrics_port("manager")},
    ]
    # It answers once REST and the control channel listen, and whoever leads: a standby is ready.
    found["readinessProbe"] = readiness(build.metrics_port("manager"))
    found["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    return found


def _environment(build: Build) -> list[Json]:
    found = [field_env("POD_NAME", "metadata.name"), plain_env("DRYSTONE_NAME", "$(POD_NAME)")]
    etcd = build.spec.metadata.etcd if build.spec.metadata else None
    if etcd and etcd.password_secret_ref:
        user = {"name": etcd.password_secret_ref.name, "key": "username"}
        found.append({"name": "DRYSTONE_ETCD_USER", "valueFrom": {"secretKeyRef": user}})
    return found


def _credentials(build: Build) -> list[tuple[str, str, str]]:
    """Volume, folder and Secret of certificates and of etcd's credentials."""
    etcd = build.spec.metadata.etcd if build.spec.metadata else None
    found: list[tuple[str, str, str]] = []
    if build.tls:
        found.append(("tls", names.TLS_DIR, build.child("tls")))
    if etcd and etcd.tls_secret_ref:
        found.append(("etcd-tls", "/etc/drystone/etcd-tls", etcd.tls_secret_ref.name))
    if etcd and etcd.password_secret_ref:
        found.append(
            ("etcd-password", "/etc/drystone/etcd-password", etcd.password_secret_ref.name)
        )
    return found


def _volumes(build: Build) -> list[Json]:
    found = [
        from_config("settings", build.child("settings")),
        from_secret("master", build.child("master")),
        from_secret("tokens", build.child("tokens")),
        *(from_secret(name, secret) for name, _, secret in _credentials(build)),
    ]
    if not build.spec.is_sqlite:
        # Everything is in etcd; the folder has the addresses and nothing that must survive.
        found.append({"name": "state", "emptyDir": {}})
    return found
