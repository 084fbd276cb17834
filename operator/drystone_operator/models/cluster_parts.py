"""The larger parts of a StorageCluster's spec."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from drystone_operator.models.common import (
    Cpu,
    DnsName,
    DriveClass,
    HostPath,
    LabelKey,
    LabelValue,
    Quantity,
    SecretRef,
    Switch,
    Wanted,
)

URL_PATTERN = r"^https?://[A-Za-z0-9.\[\]:_-]+$"
ADDRESS_PATTERN = r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"
REPOSITORY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/:-]*$"
TAG_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(@sha256:[0-9a-f]{64})?$"
GLOB_PATTERN = r"^/[A-Za-z0-9._/@:+*?\[\]!-]*$"

Url = Annotated[str, Field(min_length=8, max_length=512, pattern=URL_PATTERN)]
Address = Annotated[str, Field(min_length=3, max_length=260, pattern=ADDRESS_PATTERN)]
Repository = Annotated[str, Field(min_length=1, max_length=255, pattern=REPOSITORY_PATTERN)]
Tag = Annotated[str, Field(min_length=1, max_length=200, pattern=TAG_PATTERN)]


def _is_https(url: str) -> bool:
    return url.startswith("https://")


def _one_scheme(urls: Sequence[str]) -> None:
    """One address in clear text would give away what the others protect."""
    if len({_is_https(url) for url in urls}) > 1:
        raise ValueError("addresses are all https or all http")


class PullPolicy(StrEnum):
    """When nodes fetch the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class ImageSpec(Wanted):
    """Drystone's image; what is absent is as of the operator's own image."""

    repository: Repository | None = None
    tag: Tag | None = None
    pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    pull_secrets: Annotated[tuple[SecretRef, ...], Field(max_length=8)] = ()


class StatefulSize(Wanted):
    """Where a stateful process keeps its folder; an empty class means a folder of its node."""

    storage_class_name: Annotated[str, Field(max_length=253)] = ""
    size: Quantity = "2Gi"


class MetadataType(StrEnum):
    """Where the cluster's metadata lies."""

    ETCD = "etcd"
    SQLITE = "sqlite"


class ManagedEtcd(StatefulSize):
    """An etcd that the operator runs."""

    replicas: Literal[1, 3, 5] = 3
    size: Quantity = "8Gi"


class EtcdSpec(Wanted):
    """An etcd of somebody else (endpoints) or of ours (managed)."""

    endpoints: Annotated[tuple[Url, ...], Field(min_length=1, max_length=9)] | None = None
    tls_secret_ref: SecretRef | None = None
    password_secret_ref: SecretRef | None = None
    managed: ManagedEtcd | None = None

    @model_validator(mode="after")
    def _one_etcd(self) -> Self:
        if (self.endpoints is None) == (self.managed is None):
            raise ValueError("give exactly one of endpoints (an etcd you run) and managed")
        if self.managed is not None and (self.tls_secret_ref or self.password_secret_ref):
            raise ValueError("tlsSecretRef and passwordSecretRef belong to endpoints")
        _one_scheme(self.endpoints or ())
        https = any(_is_https(url) for url in self.endpoints or ())
        if https and self.tls_secret_ref is None:
            raise ValueError("https endpoints need tlsSecretRef")
        return self


class MetadataSpec(Wanted):
    """The metadata store."""

    type: MetadataType
    etcd: EtcdSpec | None = None

    @model_validator(mode="after")
    def _etcd_with_its_type(self) -> Self:
        if (self.type is MetadataType.ETCD) != (self.etcd is not None):
            raise ValueError("give etcd with type etcd, and only then")
        return self


class ExternalSpec(Wanted):
    """A cluster elsewhere; here only volumes are used. Nodes connect to it, never it to them."""

    endpoints: Annotated[tuple[Url, ...], Field(min_length=1, max_length=9)]
    control_endpoints: Annotated[tuple[Address, ...], Field(min_length=1, max_length=9)]
    token_secret_ref: SecretRef
    ca_secret_ref: SecretRef | None = None

    @model_validator(mode="after")
    def _verified_where_there_is_a_ca(self) -> Self:
        _one_scheme(self.endpoints)
        if self.ca_secret_ref and not all(_is_https(url) for url in self.endpoints):
            raise ValueError("caSecretRef needs https endpoints")
        return self


class AutoAdopt(StrEnum):
    """Which found disks the operator itself puts to use."""

    NONE = "None"
    BLANK = "Blank"


class DiskSelector(Wanted):
    """Which devices become StorageDisks; every given condition must hold."""

    classes: Annotated[tuple[DriveClass, ...], Field(max_length=4)] = ()
    min_size: Quantity | None = None
    path_globs: Annotated[
        tuple[Annotated[str, Field(min_length=2, max_length=255, pattern=GLOB_PATTERN)], ...],
        Field(max_length=32),
    ] = ()


class DiskSpec(Wanted):
    """Which disks the cluster may have, and who decides that it takes them."""

    selector: DiskSelector = DiskSelector()
    auto_adopt: AutoAdopt = AutoAdopt.NONE
    folders: Annotated[tuple[HostPath, ...], Field(max_length=8)] = ()


class TolerationOperator(StrEnum):
    """How a toleration's value is compared."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Wanted):
    """As in a pod."""

    key: Annotated[str, Field(max_length=317)] | None = None
    operator: TolerationOperator = TolerationOperator.EQUAL
    value: LabelValue | None = None
    effect: TaintEffect | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None

    @model_validator(mode="after")
    def _as_a_pod_takes_it(self) -> Self:
        exists = self.operator is TolerationOperator.EXISTS
        if self.key is None and not exists:
            raise ValueError("a toleration without a key needs operator Exists")
        if self.value is not None and exists:
            raise ValueError("a toleration with operator Exists has no value")
        if self.toleration_seconds is not None and self.effect is not TaintEffect.NO_EXECUTE:
            raise ValueError("tolerationSeconds needs effect NoExecute")
        return self


class ResourceAmounts(Wanted):
    """Processor time and memory."""

    cpu: Cpu | None = None
    memory: Quantity | None = None


class Resources(Wanted):
    """As in a container."""

    requests: ResourceAmounts = ResourceAmounts()
    limits: ResourceAmounts = ResourceAmounts()


class ComponentResources(Wanted):
    """Resources of each component's containers; what is absent is the operator's choice."""

    manager: Resources | None = None
    etcd: Resources | None = None
    server: Resources | None = None
    beacon: Resources | None = None
    block: Resources | None = None
    csi: Resources | None = None
    fuse: Resources | None = None


class PlacementSpec(Wanted):
    """Where pods run and what they get."""

    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = {}  # noqa: RUF012 - as above
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    priority_class_name: DnsName | None = None
    resources: ComponentResources = ComponentResources()


class CsiSpec(Wanted):
    """The CSI driver; `auto` takes the best attacher that a node can do."""

    driver: Switch = Switch.ENABLED
    kubelet_dir: HostPath = "/var/lib/kubelet"
    attacher: Literal["auto", "nbd", "fuse"] = "auto"


class UpgradeStrategy(StrEnum):
    """Who restarts servers for a new version; one fault set at a time either way."""

    ROLLING_UPDATE = "RollingUpdate"
    ON_DELETE = "OnDelete"


class UpgradeSpec(Wanted):
    """How a new version comes to the nodes."""

    strategy: UpgradeStrategy = UpgradeStrategy.ROLLING_UPDATE


class FailoverSpec(Wanted):
    """What follows the loss of a node."""

    out_of_service_taint: Switch = Switch.ENABLED
    silence_seconds: Annotated[int, Field(ge=5, le=3600)] = 10


class DeletionPolicy(StrEnum):
    """What the deletion of the StorageCluster means for the disks."""

    RETAIN = "Retain"
    WIPE = "Wipe"
