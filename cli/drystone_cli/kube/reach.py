"""REST of the managers of a StorageCluster, through the API server."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx

from drystone_cli import named
from drystone_cli.kube import storage
from drystone_cli.kube.api import Kube
from drystone_cli.kube.kubectl import Kubectl
from drystone_cli.kube.roles import token_for
from drystone_cli.kube.storage import StorageCluster
from drystone_cli.kube.target import Target
from drystone_common.errors import InvalidArgumentError, UnavailableError
from drystone_common.files import read_limited
from drystone_storaged.agent.rest import TIMEOUT_S, Rest, read_token

FORWARDS_MAX: Final = 7  # managers that are worth a kubectl each; three are usual


@dataclass(frozen=True, slots=True)
class Access:
    """What a command holds while it works with a cluster in Kubernetes."""

    kube: Kube
    kubectl: Kubectl
    target: Target


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where managers answer, and with what they are asked."""

    urls: tuple[str, ...]
    tokens: dict[str, str] = field(repr=False)
    authority: str = ""


@contextmanager
def access(target: Target) -> Iterator[Access]:
    """The API of Kubernetes."""
    kubectl = Kubectl(target)
    with kubectl.proxy() as kube:
        yield Access(kube, kubectl, target)


@contextmanager
def manager(target: Target, timeout_s: float = TIMEOUT_S) -> Iterator[Rest]:
    """A client of the managers of the target's StorageCluster."""
    with access(target) as to:
        cluster = storage.find_cluster(to.kube, to.kubectl, target)
        with reached(to, cluster, timeout_s) as rest:
            yield rest


@contextmanager
def reached(
    to: Access,
    cluster: StorageCluster,
    timeout_s: float = TIMEOUT_S,
    tokens: dict[str, str] | None = None,
) -> Iterator[Rest]:
    """A client of a StorageCluster's managers."""
    tokens = tokens or given_token() or storage.tokens(to.kube, cluster)
    authority = given_authority() or storage.authority(to.kube, cluster)
    with ExitStack() as stack:
        urls = _urls(to, cluster, stack, secure=bool(authority))
        rest = client(Endpoints(urls, tokens, authority), timeout_s)
        yield stack.enter_context(rest)


def client(endpoints: Endpoints, timeout_s: float = TIMEOUT_S) -> Rest:
    """A client that sends with each call the least privileged token that it needs."""
    if endpoints.authority:
        try:
            verify = ssl.create_default_context(cadata=endpoints.authority)
        except ssl.SSLError as error:
            raise InvalidArgumentError(
                "the certificate of the cluster's authority cannot be read",
                code="invalid_certificate",
                hint="see the ConfigMap NAME-ca, or the Secret that spec.external names",
            ) from error
        transport = httpx.HTTPTransport(verify=verify)
    else:
        transport = httpx.HTTPTransport()
    by_role = ByRole(transport, endpoints.tokens)
    return Rest(endpoints.urls, "", transport=by_role, timeout_s=timeout_s)


class ByRole(httpx.BaseTransport):
    """Puts the token into each request that its method and path need."""

    def __init__(self, inner: httpx.BaseTransport, tokens: Mapping[str, str]) -> None:
        self._inner = inner
        self._tokens = dict(tokens)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass it on."""
        token = token_for(self._tokens, request.method, request.url.path)
        request.headers["Authorization"] = f"Bearer {token}"
        return self._inner.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def given_token() -> dict[str, str]:
    """A token that the environment names, in place of those in the Secret."""
    file = named.token_file()
    return {"admin": read_token(file)} if file else {}


def given_authority() -> str:
    """Certificates that the command line or the environment names, in place of the cluster's."""
    file = named.ca_file()
    return read_limited(file).decode(errors="replace") if file else ""


def _urls(
    to: Access, cluster: StorageCluster, stack: ExitStack, *, secure: bool
) -> tuple[str, ...]:
    """Addresses of every manager that runs, through a port-forward each."""
    if cluster.external:
        return tuple(str(url) for url in cluster.external.get("endpoints") or ())
    pods = list(to.kube.items(cluster.path("pods"), labelSelector=cluster.selector("manager")))
    running = [p["metadata"]["name"] for p in pods if _runs(p)][:FORWARDS_MAX]
    if not running:
        raise UnavailableError(
            f"no manager of {cluster.namespace}/{cluster.name} runs",
            code="no_manager",
            hint=f"kubectl -n {cluster.namespace} describe pods -l {cluster.selector('manager')}",
        )
    scheme = "https" if secure else "http"
    forwards = [to.kubectl.forward(cluster.namespace, pod, cluster.rest_port) for pod in running]
    with ThreadPoolExecutor(len(forwards)) as threads:
        ports = [threads.submit(stack.enter_context, each) for each in forwards]
    failures = [error for port in ports if (error := port.exception())]
    found = tuple(f"{scheme}://127.0.0.1:{p.result()}" for p in ports if not p.exception())
    if not found:
        raise failures[0]
    return found


def _runs(pod: dict[str, object]) -> bool:
    status = pod.get("status")
    metadata = pod.get("metadata")
    if not isinstance(status, dict) or not isinstance(metadata, dict):
        return False
    return status.get("phase") == "Running" and not metadata.get("deletionTimestamp")
