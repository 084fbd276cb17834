"""What every object of ours has: metadata, labels, pods, digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from drystone_operator import names
from drystone_operator.models import StorageClusterSpec
from drystone_operator.models.cluster_parts import Resources

Json = dict[str, Any]

DIGEST_CHARS: Final = 16  # 64 bits: two templates of one cluster never meet

CLUSTER_CRITICAL: Final = "system-cluster-critical"
USER: Final = 65532  # nobody's; the same in the image

DEFAULT_REQUESTS: Final[Mapping[str, tuple[str, str]]] = {
    # Enough to start and idle; limits are the owner's choice, a throttled data path stalls volumes.
    "manager": ("50m", "128Mi"),
    "etcd": ("50m", "128Mi"),
    "server": ("100m", "512Mi"),
    "beacon": ("20m", "48Mi"),
    "block": ("50m", "128Mi"),
    "csi": ("10m", "64Mi"),
    "fuse": ("20m", "64Mi"),
}


@dataclass(frozen=True, slots=True)
class Images:
    """Images, from the operator's settings."""

    drystone: str
    etcd: str
    provisioner: str
    attacher: str
    resizer: str
    registrar: str
    snapshotter: str = ""
    livenessprobe: str = ""


@dataclass(frozen=True, slots=True)
class Platform:
    """What the operator's own settings say of where it runs."""

    images: Images
    driver: str = names.DRIVER
    node_account: str = "drystone-node"
    csi_account: str = "drystone-csi-controller"
    csi_node_account: str = "drystone-csi-node"
    tls: bool = False
    fuse_pods: bool = True
    beacon_pods: bool = True


@dataclass(frozen=True, slots=True)
class Build:
    """One StorageCluster, and what its objects are made from."""

    name: str
    namespace: str
    uid: str
    spec: StorageClusterSpec
    platform: Platform
    established: bool = False
    """Whether its status has an id: there was a metadata store with records."""
    etcd_keys: frozenset[str] = frozenset({"ca.crt", "tls.crt", "tls.key"})
    """What the Secret of certificates for a person's etcd has."""

    @property
    def instance(self) -> str:
        """The value of our labels on Nodes."""
        return names.instance(self.namespace, self.name)

    @property
    def image(self) -> str:
        """Drystone's image: the spec's where it says one, else the operator's own."""
        wanted, default = self.spec.image, self.platform.images.drystone
        if wanted.repository is None and wanted.tag is None:
            return default
        repository, version = split_image(default)
        if wanted.tag is not None:
            version = f":{wanted.tag}"
        return f"{wanted.repository or repository}{version}"

    @property
    def etcd_managed(self) -> bool:
        """Whether etcd is ours to run."""
        metadata = self.spec.metadata
        return bool(metadata and metadata.etcd and metadata.etcd.managed)

    @property
    def etcd_replicas(self) -> int:
        """Members of the managed etcd."""
        metadata = self.spec.metadata
        managed = metadata.etcd.managed if metadata and metadata.etcd else None
        return managed.replicas if managed else 0

    @property
    def tls(self) -> bool:
        """Whether REST and control speak TLS with certificates of ours."""
        return self.platform.tls and not self.spec.is_external

    @property
    def rest_urls(self) -> tuple[str, ...]:
        """Addresses of REST, one for each manager: clients go round them."""
        if self.spec.external is not None:
            return tuple(self.spec.external.endpoints)
        port, scheme = self.spec.network.ports.rest, "https" if self.tls else "http"
        return tuple(f"{scheme}://{host}:{port}" for host in self.manager_hosts)

    @property
    def control_addresses(self) -> tuple[str, ...]:
        """Addresses of the control channel, one for each manager."""
        if self.spec.external is not None:
            return tuple(self.spec.external.control_endpoints)
        return tuple(f"{host}:{self.spec.network.ports.control}" for host in self.manager_hosts)

    @property
    def manager_hosts(self) -> tuple[str, ...]:
        """Host names of the managers."""
        return names.manager_hosts(self.name, self.namespace, self.spec.manager_replicas)

    @property
    def tokens_secret(self) -> str:
        """The Secret with the tokens for REST."""
        external = self.spec.external
        return external.token_secret_ref.name if external else self.child("tokens")

    @property
    def run_dir(self) -> str:
        """Folder on the node of sockets and the lease page."""
        return f"{self.spec.paths.run}/{self.name}"

    def state_dir(self, component: str) -> str:
        """Folder on the node of what must survive a pod."""
        return f"{self.spec.paths.state}/{self.name}/{component}"

    def child(self, component: str) -> str:
        """The name of an object of this cluster."""
        return names.child(self.name, component)

    def metrics_port(self, component: str) -> int:
        """Where a component answers `/metrics` and `/healthz`."""
        first = self.spec.network.ports.metrics
        if component in names.CSI_COMPONENTS:
            return first
        return first + names.COMPONENTS_WITH_METRICS.index(component)


def split_image(image: str) -> tuple[str, str]:
    """Repository, and its version with what begins it: `:tag`, `@sha256:…` or both.

    The colon of a registry's port is not one of a tag.
    """
    name, at, content = image.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, f"@{content}" if at else ":latest"
    return head, f":{tag}{at}{content}"


def image_version(image: str) -> str:
    """What a person calls the version of an image: its tag, else the digest."""
    _, version = split_image(image)
    tag, _, content = version.partition("@")
    return tag.removeprefix(":") or content


def labels(build: Build, component: str) -> Json:
    """Labels of an object, and of the pods in it."""
    return {
        names.LABEL_NAME: "drystone",
        names.LABEL_INSTANCE: build.name,
        names.LABEL_COMPONENT: component,
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_CLUSTER: build.name,
    }


def selector(build: Build, component: str) -> Json:
    """What picks the pods of a component; never changes, a selector is immutable."""
    return {names.LABEL_CLUSTER: build.name, names.LABEL_COMPONENT: component}


def owner(build: Build) -> Json:
    """Reference to the StorageCluster: what it owns goes with it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "StorageCluster",
        "name": build.name,
        "uid": build.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def thing(
    build: Build, kind: str, api_version: str, component: str, *, name: str = "", owned: bool = True
) -> Json:
    """Head of an object; the caller adds what it is about."""
    metadata: Json = {
        "name": name or build.child(component),
        "namespace": build.namespace,
        "labels": labels(build, component),
    }
    if owned:
        metadata["ownerReferences"] = [owner(build)]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def digest(value: object) -> str:
    """A short name for a content: same content, same name."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS]


def pod_template(build: Build, component: str, pod: Json, annotations: Json | None = None) -> Json:
    """A pod template that carries its own digest, so that an older pod is known by its look."""
    # A Service named like the cluster would put variables into our pods: `DRYSTONE_…_PORT`.
    spec = {**placement(build), "enableServiceLinks": False, **pod}
    if build.spec.image.pull_secrets:
        spec["imagePullSecrets"] = [{"name": ref.name} for ref in build.spec.image.pull_secrets]
    template: Json = {
        "metadata": {"labels": labels(build, component), "annotations": dict(annotations or {})},
        "spec": spec,
    }
    template["metadata"]["annotations"][names.ANNOTATION_TEMPLATE] = digest(template)
    return template


def placement(build: Build) -> Json:
    """Tolerations and priority of pods that give none of their own."""
    wanted = build.spec.placement
    # Managers and etcd must not be the first that a full node evicts.
    found: Json = {"priorityClassName": wanted.priority_class_name or CLUSTER_CRITICAL}
    if wanted.tolerations:
        found["tolerations"] = [
            t.model_dump(by_alias=True, exclude_none=True, mode="json") for t in wanted.tolerations
        ]
    return found


def resources(build: Build, component: str) -> Json:
    """Requests and limits of a component's container."""
    wanted: Resources | None = getattr(build.spec.placement.resources, component)
    if wanted is not None:
        return wanted.model_dump(by_alias=True, exclude_none=True, mode="json")
    cpu, memory = DEFAULT_REQUESTS[component]
    return {"requests": {"cpu": cpu, "memory": memory}}


def container(
    build: Build,
    component: str,
    args: Sequence[str],
    *,
    env: Sequence[Json],
    mounts: Sequence[Json],
) -> Json:
    """The container of a component: the one image with its own entry point, another sub-command."""
    return {
        "name": component,
        "image": build.image,
        "imagePullPolicy": build.spec.image.pull_policy.value,
        # Beside the exit code, a person who asks `kubectl describe` sees the last lines.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "args": list(args),
        "env": list(env),
        "resources": resources(build, component),
        "volumeMounts": list(mounts),
    }


def nobody() -> Json:
    """Identity of a pod that needs no rights on its node."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def field_env(name: str, path: str) -> Json:
    """A variable from the pod's own fields."""
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def plain_env(name: str, value: str) -> Json:
    """A variable; `$(OTHER)` in it is expanded by kubelet."""
    return {"name": name, "value": value}


def mount(name: str, path: str, *, read_only: bool = False, propagation: str = "") -> Json:
    """A volume in a container."""
    found: Json = {"name": name, "mountPath": path}
    if read_only:
        found["readOnly"] = True
    if propagation:
        found["mountPropagation"] = propagation
    return found


def host_path(name: str, path: str, kind: str = "DirectoryOrCreate") -> Json:
    """A folder or file of the node."""
    return {"name": name, "hostPath": {"path": path, "type": kind}}


def from_secret(name: str, secret: str, *, optional: bool = False) -> Json:
    """A Secret as files that only their reader sees."""
    found: Json = {"secretName": secret, "defaultMode": 0o440}
    if optional:
        found["optional"] = True
    return {"name": name, "secret": found}


def from_config(name: str, config_map: str) -> Json:
    """A ConfigMap as files."""
    return {"name": name, "configMap": {"name": config_map, "defaultMode": 0o444}}


def readiness(port: int) -> Json:
    """Ready = the process answers. Liveness is not asked: a daemon that fails ends by itself."""
    return {
        "httpGet": {"path": "/healthz", "port": port},
        "periodSeconds": 2,
        "timeoutSeconds": 2,
        "failureThreshold": 3,
    }
