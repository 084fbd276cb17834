"""The DaemonSets of the data path: server, beacon, block, fuse. All on the node's own network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from drystone_operator import names
from drystone_operator.resources import config
from drystone_operator.resources.base import (
    Build,
    Json,
    container,
    field_env,
    from_config,
    from_secret,
    host_path,
    mount,
    plain_env,
    pod_template,
    readiness,
    selector,
    thing,
)

TOLERATE_ALL: Json = {"operator": "Exists"}
"""A node that is drained, pressed or fenced has to keep its copies served all the same."""

NODE_CRITICAL: Final = "system-node-critical"

BIDIRECTIONAL = "Bidirectional"

GRACE_S: Final = 60  # long enough for an orderly stop: drives closed, devices handed over
FUSE_GRACE_MORE_S: Final = 30  # a last detach under way takes seconds

ROOT: Json = {"privileged": True, "runAsUser": 0, "runAsGroup": 0}
"""Root whatever the image says: devices and the folders on the node are root's."""


def server(build: Build) -> Json:
    """C-server. `OnDelete`: the operator itself replaces pods, one fault set at a time.

    A DaemonSet's rolling update knows neither fault sets nor whether copies are in sync.
    """
    ports = build.spec.network.ports
    env = [
        *node_env("$(NODE_NAME)"),
        plain_env("DRYSTONE_JOIN_TOKEN_FILE", f"{names.JOIN_DIR}/server.$(NODE_NAME)"),
        plain_env("DRYSTONE_DRIVE_LISTEN", f"$(HOST_IP):{ports.drives}"),
        metrics_env(build, "server"),
    ]
    if not build.platform.beacon_pods:
        env.append(plain_env("DRYSTONE_BEACON_LISTEN", f"$(HOST_IP):{ports.beacon}"))
    volumes = [
        from_config("settings", build.child("nodes")),
        from_secret("join", build.child("join"), optional=True),
        host_path("state", build.state_dir("server")),
        host_path("run", build.run_dir),
        host_path("dev", "/dev", "Directory"),
        host_path("udev", "/run/udev"),
        # Tells a drive file from its copy on another machine. A machine without one gets an empty
        # file, which says no more than none: a folder in its place would not do.
        host_path("machine-id", "/etc/machine-id", "FileOrCreate"),
        *(host_path(f"folder-{n}", path) for n, path in enumerate(_folders(build))),
        *tls_volume(build),
    ]
    mounts = [
        mount("settings", names.SETTINGS_DIR, read_only=True),
        mount("join", names.JOIN_DIR, read_only=True),
        mount("state", build.state_dir("server")),
        mount("run", build.run_dir),
        mount("dev", "/dev"),
        mount("udev", "/run/udev", read_only=True),
        mount("machine-id", "/etc/machine-id", read_only=True),
        *(mount(f"folder-{n}", path) for n, path in enumerate(_folders(build))),
        *tls_mount(build),
    ]
    main = container(
        build,
        "server",
        ["server", "--config", f"{names.SETTINGS_DIR}/$(NODE_NAME).toml"],
        env=env,
        mounts=mounts,
    )
    # Raw disks: the device cgroup lets only a privileged container open what appears later.
    main["securityContext"] = ROOT
    return daemon_set(build, "server", main, volumes, names.LABEL_NODE_SERVER)


def beacon(build: Build) -> Json:
    """C-beacon. `OnDelete`, replaced together with the server of its node."""
    ports = build.spec.network.ports
    env = [
        *node_env("$(NODE_NAME)"),
        plain_env("DRYSTONE_JOIN_TOKEN_FILE", f"{names.JOIN_DIR}/beacon.$(NODE_NAME)"),
        plain_env("DRYSTONE_LISTEN", f"$(HOST_IP):{ports.beacon}"),
        metrics_env(build, "beacon"),
    ]
    main = container(
        build,
        "beacon",
        ["beacon", "--config", f"{names.SETTINGS_DIR}/beacon.toml"],
        env=env,
        mounts=[
            mount("settings", names.SETTINGS_DIR, read_only=True),
            mount("join", names.JOIN_DIR, read_only=True),
            mount("state", build.state_dir("beacon")),
            mount("run", build.run_dir),
            *tls_mount(build),
        ],
    )
    # The lease page is shared with the server, so both run as one user: the owner of the folder.
    main["securityContext"] = {
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": False,
        # It must beat every 150 ms, also on a node that has no time for anything.
        "capabilities": {"drop": ["ALL"], "add": ["SYS_NICE"]},
    }
    volumes = [
        from_config("settings", build.child("settings")),
        from_secret("join", build.child("join"), optional=True),
        host_path("state", build.state_dir("beacon")),
        host_path("run", build.run_dir),
        *tls_volume(build),
    ]
    return daemon_set(build, "beacon", main, volumes, names.LABEL_NODE_SERVER)


def block(build: Build) -> Json:
    """C-block. `OnDelete`: devices wait while it is replaced, so a person says when."""
    env = [
        *node_env("block-$(NODE_NAME)"),
        plain_env("DRYSTONE_JOIN_TOKEN_FILE", f"{names.JOIN_DIR}/block.$(NODE_NAME)"),
        metrics_env(build, "block"),
    ]
    state = build.state_dir("block")
    main = container(
        build,
        "block",
        ["block", "--config", f"{names.SETTINGS_DIR}/block.toml"],
        env=env,
        mounts=[
            mount("settings", names.SETTINGS_DIR, read_only=True),
            mount("join", names.JOIN_DIR, read_only=True),
            mount("state", state),
            mount("run", build.run_dir),
            mount("dev", "/dev"),
            mount("modules", "/lib/modules", read_only=True),
            *tls_mount(build),
        ],
    )
    # Block devices are made and taken over by netlink and ioctl: CAP_SYS_ADMIN and /dev.
    main["securityContext"] = ROOT
    volumes = [
        from_config("settings", build.child("settings")),
        from_secret("join", build.child("join-block"), optional=True),
        host_path("state", state),
        host_path("run", build.run_dir),
        host_path("dev", "/dev", "Directory"),
        host_path("modules", "/lib/modules"),
        *tls_volume(build),
    ]
    return daemon_set(build, "block", main, volumes, names.LABEL_NODE_BLOCK)


def fuse(build: Build) -> Json:
    """C-fuse. `OnDelete`: the FUSE processes of attached volumes live in it, and die with it.

    Its mounts are nobody else's: block daemon, node plugin and kubelet see the loop device in the
    node's /dev, which is made here too. So nothing propagates, and nothing is left on the node.
    """
    state = build.state_dir("block")
    main = container(
        build,
        "fuse",
        ["fuse-helper", "--config", f"{names.SETTINGS_DIR}/fuse.toml"],
        env=[*node_env("$(NODE_NAME)"), metrics_env(build, "fuse")],
        mounts=[
            mount("settings", names.SETTINGS_DIR, read_only=True),
            # The NBD sockets of the block daemon, and a folder for each device.
            mount("state", state),
            mount("run", build.run_dir),
            mount("dev", "/dev"),
        ],
    )
    # Mounting, and loop devices that appear in /dev later: CAP_SYS_ADMIN and every device.
    main["securityContext"] = ROOT
    volumes = [
        from_config("settings", build.child("settings")),
        host_path("state", state),
        host_path("run", build.run_dir),
        host_path("dev", "/dev", "Directory"),
    ]
    # More than its own wait, so that it ends by itself.
    grace_s = config.FUSE_STOP_WAIT_S + FUSE_GRACE_MORE_S
    return daemon_set(
        build,
        "fuse",
        main,
        volumes,
        names.LABEL_NODE_BLOCK,
        grace_s=grace_s,
        # Never a lesser class: kubelet would evict it when the node's memory gets short.
        priority=NODE_CRITICAL,
    )


def daemon_set(
    build: Build,
    component: str,
    main: Json,
    volumes: Sequence[Json],
    node_label: str,
    *,
    grace_s: int = GRACE_S,
    priority: str = "",
) -> Json:
    """A DaemonSet on the nodes that bear our label; nodes get it once their token is made."""
    found = thing(build, "DaemonSet", "apps/v1", component)
    if component in names.COMPONENTS_WITH_METRICS:
        port = build.metrics_port(component)
        main["ports"] = [{"name": "metrics", "containerPort": port}]
        main["readinessProbe"] = readiness(port)
    pod: Json = {
        "serviceAccountName": build.platform.node_account,
        "automountServiceAccountToken": False,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": {node_label: build.instance},
        "priorityClassName": priority or build.spec.placement.priority_class_name or NODE_CRITICAL,
        "terminationGracePeriodSeconds": grace_s,
        "containers": [main],
        "volumes": list(volumes),
        "tolerations": [TOLERATE_ALL],
    }
    annotations = {names.ANNOTATION_SETTINGS: config.settings_digest(build, component)}
    found["spec"] = {
        "selector": {"matchLabels": selector(build, component)},
        "updateStrategy": {"type": "OnDelete"},
        "template": pod_template(build, component, pod, annotations),
    }
    return found


def node_env(name: str) -> list[Json]:
    """Node, its address, and the name that the process registers under."""
    return [
        field_env("NODE_NAME", "spec.nodeName"),
        field_env("HOST_IP", "status.hostIP"),
        plain_env("DRYSTONE_NAME", name),
    ]


def metrics_env(build: Build, component: str) -> Json:
    """Metrics on the node's address only, not on every address of the machine."""
    return plain_env("DRYSTONE_METRICS_LISTEN", f"$(HOST_IP):{build.metrics_port(component)}")


def tls_volume(build: Build) -> list[Json]:
    """The certificate of the authority, for processes that only verify."""
    external = build.spec.external
    if external and external.ca_secret_ref:
        return [from_secret("tls", external.ca_secret_ref.name)]
    if not build.tls:
        return []
    # The key of the authority is a Secret of its own: nodes get what they verify with, no more.
    return [from_config("tls", build.child("ca"))]


def tls_mount(build: Build) -> list[Json]:
    """Where it appears."""
    return [mount("tls", names.TLS_DIR, read_only=True)] if tls_volume(build) else []


def _folders(build: Build) -> tuple[str, ...]:
    return tuple(build.spec.disk_rules.folders)
