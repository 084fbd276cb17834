"""A Drystone cluster as plain objects, without the operator: what it would make, in short.

One manager with SQLite, a server and a block daemon on every node, the CSI driver. Everybody is
cluster-admin and nothing is encrypted: this is for the lab.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.e2e.kube import images

NAMESPACE: Final = "drystone"
CLUSTER: Final = "lab"
IMAGE: Final = "localhost/drystone:dev"
DRIVER: Final = "csi.drystone.io"
STORAGE_CLASS: Final = "drystone"
MANAGER: Final = f"{CLUSTER}-manager.{NAMESPACE}.svc.cluster.local"
REST: Final = 8460
CONTROL: Final = 8461
DRIVE: Final = 8470
BEACON: Final = 8480
DRIVE_BYTES: Final = 4 << 30  # sparse: what is not written costs nothing
KUBELET: Final = "/var/lib/kubelet"
STATE: Final = f"/var/lib/drystone/{CLUSTER}"
RUN: Final = f"/run/drystone/{CLUSTER}"
PLUGIN: Final = f"{KUBELET}/plugins/{DRIVER}"

Object = dict[str, Any]

SETTINGS: Final = {
    "manager.toml": f"""
state_dir = "{STATE}/manager"
rest_listen = "0.0.0.0:{REST}"
control_listen = "0.0.0.0:{CONTROL}"
insecure_listen = true
tokens_file = "/etc/drystone/tokens/tokens"
""",
    "server.toml": f"""
state_dir = "{STATE}/server"
managers = ["{MANAGER}:{CONTROL}"]
""",
    "block.toml": f"""
state_dir = "{STATE}/block"
socket = "{RUN}/block.sock"
managers = ["{MANAGER}:{CONTROL}"]
""",
    "csi-node.toml": f"""
socket = "/csi/csi.sock"
rest_url = "http://{MANAGER}:{REST}"
token_file = "/etc/drystone/tokens/operate"
block_socket = "{RUN}/block.sock"
controller = false
""",
    "csi-controller.toml": f"""
name = "controller"
socket = "/csi/csi.sock"
rest_url = "http://{MANAGER}:{REST}"
token_file = "/etc/drystone/tokens/operate"
""",
}


def foundation(tokens: Mapping[str, str]) -> Iterator[Object]:
    """Namespace, rights, settings, tokens (role to token), and the manager."""
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    yield object_("v1", "ServiceAccount", CLUSTER)
    yield {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"drystone-{CLUSTER}"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
        },
        "subjects": [{"kind": "ServiceAccount", "name": CLUSTER, "namespace": NAMESPACE}],
    }  # fmt: skip
    yield {**object_("v1", "ConfigMap", f"{CLUSTER}-settings"), "data": dict(SETTINGS)}
    lines = "".join(f"{role} {token}\n" for role, token in tokens.items())
    yield secret("tokens", {"tokens": lines, **tokens})
    yield {
        **object_("v1", "Service", f"{CLUSTER}-manager"),
        "spec": {
            "selector": {"app": f"{CLUSTER}-manager"},
            "ports": [{"name": "rest", "port": REST}, {"name": "control", "port": CONTROL}],
        },
    }
    yield _manager()


def secret(name: str, values: Mapping[str, str]) -> Object:
    """A Secret of the cluster."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {**object_("v1", "Secret", f"{CLUSTER}-{name}"), "data": data}


def _manager() -> Object:
    container = _container("manager", mounts={"settings": "/etc/drystone/settings",
                                              "tokens": "/etc/drystone/tokens",
                                              "state": f"{STATE}/manager"})  # fmt: skip
    container["readinessProbe"] = {"tcpSocket": {"port": REST}, "periodSeconds": 1}
    container["securityContext"] = {"runAsUser": 0}  # its folder on the node is root's
    volumes = [_settings(), _secret("tokens"), _host("state", f"{STATE}/manager")]
    pod = {**_pod([container], volumes), "nodeSelector": {"kubernetes.io/hostname": "node-1"}}
    # Two managers on one folder would be two masters: the old one ends first.
    strategy = {"replicas": 1, "strategy": {"type": "Recreate"}}
    return _workload("Deployment", f"{CLUSTER}-manager", pod, **strategy)


def daemons() -> Iterator[Object]:
    """A server and a block daemon on every node."""
    drives = (
        f'[{{"path": "{STATE}/server/drives/1.img", "listen": "$(HOST_IP):{DRIVE}",'
        f' "init": true, "create_bytes": {DRIVE_BYTES}}}]'
    )
    server = _container(
        "server",
        {**_node_env("server"), "DRYSTONE_BEACON_LISTEN": f"$(HOST_IP):{BEACON}",
         "DRYSTONE_DRIVES": drives},
        {"settings": "/etc/drystone/settings", "join": "/etc/drystone/join",
         "state": f"{STATE}/server"},
        privileged=True,
    )  # fmt: skip
    volumes = [_settings(), _secret("join"), _host("state", f"{STATE}/server")]
    yield _workload("DaemonSet", f"{CLUSTER}-server", _on_host(_pod([server], volumes)))
    block = _container(
        "block",
        _node_env("block"),
        {"settings": "/etc/drystone/settings", "join": "/etc/drystone/join",
         "state": f"{STATE}/block", "run": RUN, "dev": "/dev"},
        privileged=True,
    )  # fmt: skip
    volumes = [_settings(), _secret("join"), _host("state", f"{STATE}/block"), _host("run", RUN),
               _host("dev", "/dev")]  # fmt: skip
    yield _workload("DaemonSet", f"{CLUSTER}-block", _on_host(_pod([block], volumes)))


def csi() -> Iterator[Object]:
    """The driver, with the upstream sidecars, and a StorageClass."""
    yield {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": DRIVER},
        "spec": {"attachRequired": True, "podInfoOnMount": False, "fsGroupPolicy": "File"},
    }
    yield {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS},
        "provisioner": DRIVER,
        "allowVolumeExpansion": True,
        "volumeBindingMode": "WaitForFirstConsumer",
        "parameters": {"csi.storage.k8s.io/fstype": "ext4"},
    }
    yield _csi_controller()
    yield _csi_node()


def _csi_controller() -> Object:
    driver = _container("csi", {}, {"settings": "/etc/drystone/settings",
                                    "tokens": "/etc/drystone/tokens", "socket": "/csi"},
                        settings="csi-controller")  # fmt: skip
    sidecars = [
        _sidecar("csi-provisioner", "--timeout=60s", "--default-fstype=ext4"),
        _sidecar("csi-attacher", "--timeout=60s"),
        _sidecar("csi-resizer", "--timeout=60s"),
    ]
    volumes = [_settings(), _secret("tokens"), {"name": "socket", "emptyDir": {}}]
    pod = _pod([driver, *sidecars], volumes)
    # All of one user: the socket is its owner's alone.
    pod["securityContext"] = {"runAsNonRoot": True, "runAsUser": 65532}
    pod["nodeSelector"] = {"kubernetes.io/hostname": "node-1"}  # killing another one spares it
    return _workload("Deployment", f"{CLUSTER}-csi-controller", pod, replicas=1)


def _csi_node() -> Object:
    mounts = {"settings": "/etc/drystone/settings", "tokens": "/etc/drystone/tokens",
              "plugin": "/csi", "run": RUN, "dev": "/dev", "kubelet": KUBELET}  # fmt: skip
    env = {"DRYSTONE_NAME": "@spec.nodeName"}
    driver = _container("csi", env, mounts, settings="csi-node", privileged=True)
    driver["volumeMounts"][-1]["mountPropagation"] = "Bidirectional"
    registrar = _sidecar(
        "csi-node-driver-registrar", f"--kubelet-registration-path={PLUGIN}/csi.sock",
        mounts={"plugin": "/csi", "registry": "/registration"},
    )  # fmt: skip
    volumes = [
        _settings(), _secret("tokens"), _host("plugin", PLUGIN), _host("run", RUN),
        _host("dev", "/dev"), _host("kubelet", KUBELET),
        _host("registry", f"{KUBELET}/plugins_registry"),
    ]  # fmt: skip
    return _workload("DaemonSet", f"{CLUSTER}-csi-node", _pod([driver, registrar], volumes))


def claim(
    name: str, size: str, *, block: bool = False, storage_class: str = STORAGE_CLASS
) -> Object:
    """A claim for a volume."""
    spec = {
        "accessModes": ["ReadWriteOnce"], "storageClassName": storage_class,
        "volumeMode": "Block" if block else "Filesystem",
        "resources": {"requests": {"storage": size}},
    }  # fmt: skip
    return {**object_("v1", "PersistentVolumeClaim", name, "default"), "spec": spec}


def user(name: str, claim_name: str, node: str) -> Object:
    """A pod that has the volume at /data and waits to be told what to do."""
    spec = {**_user_pod(claim_name), "nodeSelector": {"kubernetes.io/hostname": node}}
    return {**object_("v1", "Pod", name, "default"), "spec": spec}


def deployment(name: str, node: str) -> Object:
    """The same in a Deployment that rather has it on a node, and elsewhere if that is lost."""
    pod = _user_pod(name)
    pod["affinity"] = rather_on(node)
    found = _workload("Deployment", name, pod, replicas=1, strategy={"type": "Recreate"})
    found["metadata"]["namespace"] = "default"
    return found


def rather_on(node: str) -> Object:
    """The affinity of a pod that should be on a node, but need not."""
    wish = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    preferred = [{"weight": 100, "preference": {"matchExpressions": [wish]}}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _user_pod(claim_name: str) -> Object:
    container = {
        "name": "user", "image": IMAGE, "command": ["/usr/bin/tini", "--", "sleep", "infinity"],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }  # fmt: skip
    return {
        "containers": [container],
        "terminationGracePeriodSeconds": 2,
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim_name}}],
    }


def object_(version: str, kind: str, name: str, namespace: str = NAMESPACE) -> Object:
    """The beginning of an object."""
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
    }


def _workload(kind: str, name: str, pod: Object, **spec: object) -> Object:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod}
    found = object_("apps/v1", kind, name)
    return {**found, "spec": {"selector": {"matchLabels": labels}, "template": template, **spec}}


def _pod(containers: Sequence[Object], volumes: Sequence[Object]) -> Object:
    return {
        "serviceAccountName": CLUSTER,
        # The variables of services would be settings of the processes where a name fits.
        "enableServiceLinks": False,
        "containers": list(containers),
        "volumes": list(volumes),
    }


def _on_host(pod: Object) -> Object:
    return {**pod, "hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}


def _container(
    kind: str,
    env: Mapping[str, str] | None = None,
    mounts: Mapping[str, str] | None = None,
    *,
    settings: str = "",
    privileged: bool = False,
) -> Object:
    found: Object = {
        "name": kind,
        "image": IMAGE,
        "args": [kind, "--config", f"/etc/drystone/settings/{settings or kind}.toml"],
        "env": [_variable(name, value) for name, value in (env or {}).items()],
        "volumeMounts": [{"name": n, "mountPath": path} for n, path in (mounts or {}).items()],
    }
    if privileged:
        found["securityContext"] = {"privileged": True, "runAsUser": 0}
    return found


def _node_env(kind: str) -> dict[str, str]:
    """Names are per node; a block daemon's differs from that of the server beside it."""
    name = "$(NODE)" if kind == "server" else f"{kind}-$(NODE)"
    return {
        "NODE": "@spec.nodeName",
        "HOST_IP": "@status.hostIP",
        "DRYSTONE_NAME": name,
        "DRYSTONE_JOIN_TOKEN_FILE": f"/etc/drystone/join/{kind}.$(NODE)",
    }


def _variable(name: str, value: str) -> Object:
    if value.startswith("@"):
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": value[1:]}}}
    return {"name": name, "value": value}


def _sidecar(program: str, *words: str, mounts: Mapping[str, str] | None = None) -> Object:
    where = mounts or {"socket": "/csi"}
    return {
        "name": program,
        "image": images.name(program),
        "args": ["--csi-address=/csi/csi.sock", "--v=2", *words],
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in where.items()],
    }


def _settings() -> Object:
    return {"name": "settings", "configMap": {"name": f"{CLUSTER}-settings"}}


def _secret(name: str) -> Object:
    return {"name": name, "secret": {"secretName": f"{CLUSTER}-{name}"}}


def _host(name: str, path: str) -> Object:
    return {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
