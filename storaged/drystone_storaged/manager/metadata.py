"""Opens the metadata store that the settings name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from drystone_common.errors import InvalidArgumentError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.etcd_client import EtcdConfig
from drystone_storaged.cluster.store import MetadataStore, StoreUnavailableError
from drystone_storaged.cluster.store_etcd import EtcdStore
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.manager.settings import ManagerSettings

AGAIN_S: Final = 0.5  # between two tries while etcd is away; a try itself takes up to 6 s

T = TypeVar("T")
log = get_logger(__name__)

_NAMESPACE: Final = re.compile(r"(/[a-z0-9][a-z0-9._-]{0,62}){1,4}")
_ENDPOINT: Final = re.compile(r"[A-Za-z0-9.\-\[\]:]{1,253}:[0-9]{1,5}")


async def open_store(settings: ManagerSettings) -> MetadataStore:
    """Open it: at once, or when an etcd that is away comes back."""
    if settings.metadata == "sqlite":
        return await SqliteStore.open(settings.state_dir / "store.sqlite")
    return await _again(lambda: EtcdStore.open(etcd_config(settings)))


async def patiently(store: MetadataStore, work: Callable[[], Awaitable[T]]) -> T:
    """Run a step of the start; a store on other machines may be away for the time."""
    return await (_again(work) if store.shared else work())


async def _again(work: Callable[[], Awaitable[T]]) -> T:
    """Try until the store answers: a manager waits for it like everybody waits for a manager."""
    waits = False
    while True:
        try:
            return await work()
        except StoreUnavailableError as error:
            if not waits:
                log.warning("the metadata store is away, waiting for it", reason=str(error))
            waits = True
            await asyncio.sleep(AGAIN_S)


async def holds_cluster(store: MetadataStore) -> bool:
    """Whether a cluster was founded in this store."""
    return await store.get(keys.CLUSTER) is not None


def etcd_config(settings: ManagerSettings) -> EtcdConfig:
    """Check and translate the settings."""
    if not settings.etcd_endpoints:
        raise _invalid("no member of etcd is named", 'set etcd_endpoints = ["host:2379", …]')
    for endpoint in settings.etcd_endpoints:
        if not _ENDPOINT.fullmatch(endpoint):
            raise _invalid(f"{endpoint[:80]!a} is not host:port", "write it without a scheme")
    if not _NAMESPACE.fullmatch(settings.etcd_namespace):
        raise _invalid(
            f"{settings.etcd_namespace[:80]!a} is not a namespace",
            "one to four parts like /drystone/prod",
        )
    if (settings.etcd_cert_file is None) != (settings.etcd_key_file is None):
        raise _invalid("etcd_cert_file and etcd_key_file belong together", "set both or none")
    if settings.etcd_cert_file is not None and settings.etcd_ca_file is None:
        raise _invalid("a certificate without etcd_ca_file is not used", "set etcd_ca_file")
    return EtcdConfig(
        endpoints=settings.etcd_endpoints,
        namespace=settings.etcd_namespace,
        ca_file=settings.etcd_ca_file,
        cert_file=settings.etcd_cert_file,
        key_file=settings.etcd_key_file,
        user=settings.etcd_user,
        password_file=settings.etcd_password_file,
    )


def _invalid(message: str, hint: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="invalid_settings", hint=hint)
