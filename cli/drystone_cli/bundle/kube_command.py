"""The bundle of a StorageCluster in Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from drystone_cli.bundle import kube_parts
from drystone_cli.bundle.parts import Part, rest_parts
from drystone_cli.bundle.redact import Redactor
from drystone_cli.doctor.facts import KUBELET_DIR
from drystone_cli.kube import reach, storage
from drystone_cli.kube.reach import Access
from drystone_cli.kube.storage import StorageCluster
from drystone_cli.kube.target import Target
from drystone_common.errors import DrystoneError

REST_S = 10.0

Failures = list[tuple[str, str]]


@contextmanager
def gathered(target: Target, since_s: int) -> Iterator[tuple[list[Part], Redactor, Failures]]:
    """Parts to read, what takes secrets out of them, and what failed already."""
    failures: Failures = []
    with ExitStack() as stack:
        to = stack.enter_context(reach.access(target))
        cluster = _cluster(to, failures)
        namespace = cluster.namespace if cluster else storage.namespace_without(to.kubectl, target)
        parts = list(kube_parts.object_parts(to.kube, namespace))
        parts += _pod_parts(to, namespace, since_s, failures)
        secrets: list[str] = []
        if cluster:
            secrets, more = _rest(to, cluster, stack, failures)
            parts += more
        parts.append(Part("doctor.json", lambda: _doctor(to)))
        yield parts, Redactor(secrets), failures


def _cluster(to: Access, failures: Failures) -> StorageCluster | None:
    try:
        return storage.find_cluster(to.kube, to.kubectl, to.target)
    except DrystoneError as error:
        failures.append(("kubernetes/storageclusters.yaml", str(error)))
        return None


def _pod_parts(to: Access, namespace: str, since_s: int, failures: Failures) -> list[Part]:
    try:
        pods = kube_parts.own_pods(to.kube, namespace)
    except DrystoneError as error:
        failures.append(("logs", str(error)))
        return []
    return [
        *kube_parts.log_parts(to.kube, pods, since_s),
        *kube_parts.metric_parts(to.kube, pods),
    ]


def _rest(
    to: Access, cluster: StorageCluster, stack: ExitStack, failures: Failures
) -> tuple[list[str], list[Part]]:
    """The tokens that are used, to be taken out everywhere, and what the managers say."""
    secrets: list[str] = []
    try:
        tokens = reach.given_token() or storage.tokens(to.kube, cluster)
        secrets += tokens.values()
        rest = stack.enter_context(reach.reached(to, cluster, REST_S, tokens))
        return secrets, list(rest_parts(rest))
    except DrystoneError as error:
        failures.append(("rest", str(error)))
        return secrets, []


def _doctor(to: Access) -> dict[str, Any]:
    """What `doctor` finds; no pods are made for it."""
    from drystone_cli.doctor import kube_command  # noqa: PLC0415 - its imports are not needed else

    def silent(_done: int, _total: int, _word: str) -> None:
        """The bundle's own bar is on the screen."""

    return kube_command.looked(to, KUBELET_DIR, "", silent, pods_may_be_made=False)
