"""The StorageCluster of a namespace, and what is needed to speak with its managers."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

from drystone_cli.kube.api import Json, Kube
from drystone_cli.kube.kubectl import Kubectl
from drystone_cli.kube.roles import ROLES
from drystone_cli.kube.target import Target
from drystone_common.errors import ConflictError, DeniedError, NotFoundError

GROUP: Final = "/apis/drystone.io/v1alpha1"
USUAL_NAMESPACE: Final = "drystone"
"""Where the chart puts things; looked at when nobody named a namespace."""

REST_PORT: Final = 8460
LABEL_CLUSTER: Final = "drystone.io/cluster"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"


@dataclass(frozen=True, slots=True)
class StorageCluster:
    """A StorageCluster, as far as it is needed here."""

    name: str
    namespace: str
    body: Json

    @property
    def spec(self) -> Json:
        """Its spec."""
        found = self.body.get("spec")
        return found if isinstance(found, dict) else {}

    @property
    def external(self) -> Json:
        """Where its managers are, if they are elsewhere."""
        found = self.spec.get("external")
        return found if isinstance(found, dict) else {}

    @property
    def rest_port(self) -> int:
        """Port of REST."""
        return self.port("rest", REST_PORT)

    def port(self, name: str, default: int) -> int:
        """A port of its network."""
        ports = (self.spec.get("network") or {}).get("ports") or {}
        return int(ports.get(name) or default)

    def path(self, plural: str) -> str:
        """A collection of the core group in its namespace."""
        return f"/api/v1/namespaces/{self.namespace}/{plural}"

    def selector(self, component: str = "") -> str:
        """What picks its pods."""
        found = f"{LABEL_CLUSTER}={self.name}"
        return f"{found},{LABEL_COMPONENT}={component}" if component else found


def find_cluster(kube: Kube, kubectl: Kubectl, target: Target) -> StorageCluster:
    """The one of the target's namespace; else, where none was named, that of the usual one."""
    namespace = target.namespace or kubectl.namespace()
    found = clusters(kube, namespace)
    if not found and not target.namespace and namespace != USUAL_NAMESPACE:
        found = clusters(kube, USUAL_NAMESPACE)
    if not found:
        raise NotFoundError(
            f"there is no StorageCluster in namespace {namespace}",
            code="no_storage_cluster",
            hint="name its namespace with -n; `kubectl get storageclusters -A` shows them",
        )
    if len(found) > 1:
        names = ", ".join(sorted(each.name for each in found))
        raise ConflictError(
            f"there are several StorageClusters in namespace {namespace}: {names}",
            code="several_storage_clusters",
            hint="a namespace holds one: see their conditions, delete the one called Duplicate",
        )
    return found[0]


def namespace_without(kubectl: Kubectl, target: Target) -> str:
    """The namespace that is meant where no StorageCluster is yet."""
    named = target.namespace or kubectl.namespace()
    return USUAL_NAMESPACE if named == "default" and not target.namespace else named


def clusters(kube: Kube, namespace: str) -> list[StorageCluster]:
    """Those of a namespace that are not refused as second ones."""
    path = f"{GROUP}/namespaces/{namespace}/storageclusters"
    try:
        items = list(kube.items(path))
    except NotFoundError as error:
        raise NotFoundError(
            "this Kubernetes does not know StorageClusters",
            code="not_installed",
            hint="install the chart first, or name another --context",
        ) from error
    found = [StorageCluster(i["metadata"]["name"], namespace, i) for i in items]
    return [each for each in found if not _duplicate(each.body)] if len(found) > 1 else found


def _duplicate(body: Json) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("reason") == "Duplicate" for c in conditions)


def tokens(kube: Kube, cluster: StorageCluster) -> dict[str, str]:
    """Tokens by role, from the cluster's Secret."""
    ref = cluster.external.get("tokenSecretRef") or {}
    name = str(ref.get("name") or f"{cluster.name}-tokens")
    try:
        secret = kube.get(f"{cluster.path('secrets')}/{name}")
    except NotFoundError as error:
        raise NotFoundError(
            f"the Secret {cluster.namespace}/{name} is not there",
            code="no_token",
            hint="the operator makes it: see the conditions of the StorageCluster",
        ) from error
    except DeniedError as error:
        raise DeniedError(
            f"you may not read the Secret {cluster.namespace}/{name}",
            code="no_token",
            hint="set DRYSTONE_TOKEN_FILE to a file with a token, or ask for that right",
        ) from error
    found = {role: decoded(secret, role) for role in ROLES}
    return {role: token for role, token in found.items() if token}


def authority(kube: Kube, cluster: StorageCluster) -> str:
    """The certificate that the managers' are verified with; empty = they speak clear text."""
    ref = cluster.external.get("caSecretRef") or {}
    if ref:
        return decoded(kube.get(f"{cluster.path('secrets')}/{ref['name']}"), "ca.crt")
    if cluster.external:
        return ""
    try:
        # A ConfigMap: whoever verifies needs no right to read the authority's key.
        found = kube.get(f"{cluster.path('configmaps')}/{cluster.name}-ca")
    except NotFoundError:
        return ""
    return str((found.get("data") or {}).get("ca.crt") or "")


def decoded(secret: Json, key: str) -> str:
    """A value of a Secret; what is not there or not text reads as nothing."""
    value: Any = (secret.get("data") or {}).get(key) or ""
    try:
        return base64.b64decode(value, validate=True).decode().strip()
    except (binascii.Error, ValueError, UnicodeDecodeError):
        return ""
