"""The CSI driver: node plugin on every consuming node, controller with its sidecars."""

from __future__ import annotations

from collections.abc import Sequence

from drystone_operator import names
from drystone_operator.resources import config
from drystone_operator.resources.base import (
    CLUSTER_CRITICAL,
    USER,
    Build,
    Json,
    container,
    field_env,
    from_config,
    from_secret,
    host_path,
    mount,
    nobody,
    plain_env,
    pod_template,
    selector,
    thing,
)
from drystone_operator.resources.daemons import (
    BIDIRECTIONAL,
    ROOT,
    TOLERATE_ALL,
    tls_mount,
    tls_volume,
)

SOCKET_DIR = "/csi"
HEALTH_PORT = 9808
REPLICAS = 2
"""The one on a lost node must not be what the volumes of that node wait for."""

CALL_TIMEOUT = "60s"  # an unpublish that fences proves within 15 s; kubelet gives two minutes

LEADER_ARGS = (
    "--leader-election",
    # A standby takes over in 8 to 10 s: the default of 15 s would be half of a fail-over's time.
    # Looking more often is what an idle sidecar would cost most with.
    "--leader-election-lease-duration=8s",
    "--leader-election-renew-deadline=5s",
    "--leader-election-retry-period=2s",
)

SIDECAR_REQUESTS: Json = {"requests": {"cpu": "10m", "memory": "32Mi"}}

AWAY_SECONDS = 10  # a controller on a lost node is replaced after this, not after 300 s


def node(build: Build) -> Json:
    """C-csi-node. It keeps nothing, so Kubernetes may roll it."""
    found = thing(build, "DaemonSet", "apps/v1", "csi-node")
    pod: Json = {
        "serviceAccountName": build.platform.csi_node_account,
        "nodeSelector": {names.LABEL_NODE_BLOCK: build.instance},
        "priorityClassName": build.spec.placement.priority_class_name or "system-node-critical",
        "terminationGracePeriodSeconds": 30,
        "containers": _with_liveness(build, [_node_driver(build), _registrar(build)]),
        # The socket is root's, so whoever talks to it is too.
        "securityContext": {"runAsUser": 0, "runAsGroup": 0},
        "volumes": _node_volumes(build),
        "tolerations": [TOLERATE_ALL],
    }
    annotations = {names.ANNOTATION_SETTINGS: config.settings_digest(build, "csi")}
    found["spec"] = {
        "selector": {"matchLabels": selector(build, "csi-node")},
        # Mounts live on without it; a quarter at a time keeps new pods starting elsewhere.
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
        "template": pod_template(build, "csi-node", pod, annotations),
    }
    return found


def _plugin_dir(build: Build) -> str:
    return f"{build.spec.csi.kubelet_dir}/plugins/{build.platform.driver}"


def _node_driver(build: Build) -> Json:
    env = [
        field_env("NODE_NAME", "spec.nodeName"),
        plain_env("DRYSTONE_NAME", "block-$(NODE_NAME)"),
        plain_env("DRYSTONE_SOCKET", f"{SOCKET_DIR}/csi.sock"),
        plain_env("DRYSTONE_BLOCK_SOCKET", f"{build.run_dir}/block.sock"),
        plain_env("DRYSTONE_CONTROLLER", "false"),
        _metrics_env(build, "csi-node"),
    ]
    mounts = [
        # What it mounts must be seen by kubelet and the pods.
        mount("kubelet", build.spec.csi.kubelet_dir, propagation=BIDIRECTIONAL),
        mount("run", build.run_dir),
        mount("dev", "/dev"),
    ]
    main = _driver(build, "csi-node", env, mounts)
    # Mounting below kubelet's folder with propagation back to the node needs it.
    main["securityContext"] = ROOT
    return main


def _registrar(build: Build) -> Json:
    return {
        "name": "registrar",
        "image": build.platform.images.registrar,
        "imagePullPolicy": build.spec.image.pull_policy.value,
        "args": [
            f"--csi-address={SOCKET_DIR}/csi.sock",
            f"--kubelet-registration-path={_plugin_dir(build)}/csi.sock",
        ],
        "resources": SIDECAR_REQUESTS,
        "volumeMounts": [mount("plugin", SOCKET_DIR), mount("registration", "/registration")],
    }


def _node_volumes(build: Build) -> list[Json]:
    kubelet = build.spec.csi.kubelet_dir
    return [
        from_config("settings", build.child("settings")),
        token(build),
        host_path("plugin", _plugin_dir(build)),
        host_path("registration", f"{kubelet}/plugins_registry", "Directory"),
        host_path("kubelet", kubelet, "Directory"),
        host_path("run", build.run_dir),
        host_path("dev", "/dev", "Directory"),
        *tls_volume(build),
    ]


def token(build: Build) -> Json:
    """The one token that volumes need; the admin's stays out of these pods."""
    found = from_secret("tokens", build.tokens_secret)
    found["secret"]["items"] = [{"key": "operate", "path": "operate"}]
    return found


def controller(build: Build) -> Json:
    """C-csi-controller."""
    found = thing(build, "Deployment", "apps/v1", "csi-controller")
    away = [
        {
            "key": f"node.kubernetes.io/{what}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": AWAY_SECONDS,
        }
        for what in ("not-ready", "unreachable")
    ]
    pod: Json = {
        "serviceAccountName": build.platform.csi_account,
        "priorityClassName": build.spec.placement.priority_class_name or CLUSTER_CRITICAL,
        "containers": _with_liveness(build, [_controller_driver(build), *_sidecars(build)]),
        # One user for all: driver and sidecars share a socket and the driver a token.
        "securityContext": {**nobody(), "fsGroup": USER},
        "volumes": [
            {"name": "plugin", "emptyDir": {}},
            from_config("settings", build.child("settings")),
            token(build),
            *tls_volume(build),
        ],
        "affinity": {"podAntiAffinity": _rather_apart(build)},
        "tolerations": [*_asked_tolerations(build), *away],
    }
    if build.spec.placement.node_selector:
        pod["nodeSelector"] = dict(build.spec.placement.node_selector)
    annotations = {names.ANNOTATION_SETTINGS: config.settings_digest(build, "csi")}
    found["spec"] = {
        "replicas": REPLICAS,
        "selector": {"matchLabels": selector(build, "csi-controller")},
        "template": pod_template(build, "csi-controller", pod, annotations),
    }
    return found


def _asked_tolerations(build: Build) -> list[Json]:
    return [
        t.model_dump(by_alias=True, exclude_none=True, mode="json")
        for t in build.spec.placement.tolerations
    ]


def _rather_apart(build: Build) -> Json:
    term = {
        "labelSelector": {"matchLabels": selector(build, "csi-controller")},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": term}
        ]
    }


def _controller_driver(build: Build) -> Json:
    env = [
        field_env("POD_NAME", "metadata.name"),
        plain_env("DRYSTONE_NAME", "$(POD_NAME)"),
        plain_env("DRYSTONE_SOCKET", f"{SOCKET_DIR}/csi.sock"),
        plain_env("DRYSTONE_CONTROLLER", "true"),
        _metrics_env(build, "csi-controller"),
    ]
    return _driver(build, "csi-controller", env)


def _metrics_env(build: Build, component: str) -> Json:
    """On every address of the pod, which is its own."""
    return plain_env("DRYSTONE_METRICS_LISTEN", f"0.0.0.0:{build.metrics_port(component)}")


def _driver(build: Build, component: str, env: Sequence[Json], mounts: Sequence[Json] = ()) -> Json:
    """Our own container; ``mounts``: besides those of every driver."""
    found = container(
        build,
        "csi",
        ["csi", "--config", f"{names.SETTINGS_DIR}/csi.toml"],
        env=env,
        mounts=[
            mount("settings", names.SETTINGS_DIR, read_only=True),
            mount("tokens", names.TOKENS_DIR, read_only=True),
            mount("plugin", SOCKET_DIR),
            *mounts,
            *tls_mount(build),
        ],
    )
    # Whether it is well is asked of its socket, by the sidecar: this is for figures alone.
    port = build.metrics_port(component)
    return {**found, "ports": [{"name": "metrics", "containerPort": port}]}


def _sidecars(build: Build) -> list[Json]:
    images = build.platform.images
    provisioner_args = (
        "--feature-gates=Topology=true",
        "--enable-capacity",
        "--capacity-ownerref-level=2",  # pod → ReplicaSet → Deployment owns the capacity objects
        "--extra-create-metadata",
        "--default-fstype=ext4",
    )
    found = [
        _sidecar(build, "provisioner", images.provisioner, provisioner_args),
        _sidecar(build, "attacher", images.attacher, ()),
        _sidecar(build, "resizer", images.resizer, ()),
    ]
    if images.snapshotter:
        found.append(_sidecar(build, "snapshotter", images.snapshotter, ()))
    return found


def _sidecar(build: Build, name: str, image: str, args: tuple[str, ...]) -> Json:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": build.spec.image.pull_policy.value,
        "args": [
            f"--csi-address={SOCKET_DIR}/csi.sock",
            f"--timeout={CALL_TIMEOUT}",
            *LEADER_ARGS,
            *args,
        ],
        "env": [
            field_env("NAMESPACE", "metadata.namespace"),
            field_env("POD_NAME", "metadata.name"),
        ],
        "resources": SIDECAR_REQUESTS,
        "volumeMounts": [mount("plugin", SOCKET_DIR)],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _with_liveness(build: Build, containers: list[Json]) -> list[Json]:
    """Upstream's probe asks the driver; kubelet's own cannot reach a unix socket."""
    image = build.platform.images.livenessprobe
    if not image:
        return containers
    driver = {
        **containers[0],
        "ports": [
            *containers[0]["ports"],
            {"name": "healthz", "containerPort": HEALTH_PORT},
        ],
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "healthz"},
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }
    probe: Json = {
        "name": "liveness",
        "image": image,
        "imagePullPolicy": build.spec.image.pull_policy.value,
        "args": [f"--csi-address={SOCKET_DIR}/csi.sock", f"--health-port={HEALTH_PORT}"],
        "resources": SIDECAR_REQUESTS,
        "volumeMounts": [mount("plugin", SOCKET_DIR)],
    }
    return [driver, *containers[1:], probe]
