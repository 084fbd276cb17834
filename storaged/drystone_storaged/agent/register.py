"""Registration: the first call of every process that talks to a manager."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from drystone_common import __version__
from drystone_common.errors import DataError, NotFoundError, UnauthenticatedError
from drystone_common.files import read_limited
from drystone_common.logs import get_logger
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.identity import Identity, IdentityFile
from drystone_storaged.proto import control_pb2

FEATURE_LEVEL: Final = 1  # highest level that this program understands
TOKEN_BYTES_MAX: Final = 4096  # a token is some dozen characters
TOKEN_WAIT_S: Final = 60.0  # whoever starts node and manager together writes it within this
TOKEN_POLL_S: Final = 0.05

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Membership:
    """What a registered process knows of its cluster. Holds keys: never logged."""

    identity: Identity
    cluster: uuid.UUID
    incarnation: int
    feature_level: int
    key_epoch: int
    master_key: bytes = field(repr=False)
    role_key: bytes = field(repr=False)
    node: bytes | None = None
    """Of a beacon: uuid of the storage node for which it speaks."""


@dataclass(frozen=True, slots=True)
class Registrant:
    """What a process says of itself."""

    role: control_pb2.Role.ValueType
    join_token_file: str = ""
    fault_set: str = ""
    beacon_addr: str = ""
    page_instance: int = 0


async def register(
    control: Control, file: IdentityFile, identity: Identity, registrant: Registrant
) -> Membership:
    """Register, waiting for a manager as long as it takes; a refusal is raised."""
    control.authorize(identity.credential)
    token = ""
    if not identity.credential:
        token = await _read_token(identity.name, registrant.join_token_file)
    request = control_pb2.RegisterRequest(
        role=registrant.role,
        name=identity.name,
        uuid=identity.uuid.bytes,
        version=__version__,
        join_token=token,
        feature_level=FEATURE_LEVEL,
        fault_set=registrant.fault_set,
        beacon_addr=registrant.beacon_addr,
        page_instance=registrant.page_instance,
        cluster=identity.cluster.bytes if identity.cluster else b"",
    )
    answer = await control.call(lambda stub: stub.Register, request)
    cluster = uuid.UUID(bytes=answer.cluster)
    if identity.cluster not in (None, cluster):
        raise DataError(
            f"this node belongs to cluster {identity.cluster}, the manager to {cluster}",
            code="wrong_cluster",
            hint="check the manager addresses",
        )
    known = file.registered(identity, cluster, answer.credential)
    control.authorize(known.credential)
    _log.info("registered", node=known.name, uuid=str(known.uuid), cluster=str(cluster))
    return Membership(
        known,
        cluster,
        answer.incarnation,
        answer.feature_level,
        answer.key_epoch,
        answer.master_key,
        answer.role_key,
        answer.node or None,
    )


async def _read_token(name: str, path: str) -> str:
    """Read the token; a file that is not there yet is waited for, it may be on its way."""
    if not path:
        return ""
    try:
        async with asyncio.timeout(TOKEN_WAIT_S):
            while True:
                with contextlib.suppress(NotFoundError):
                    data = await asyncio.to_thread(
                        read_limited, Path(path), bytes_max=TOKEN_BYTES_MAX
                    )
                    return data.decode("ascii", "replace").strip()
                await asyncio.sleep(TOKEN_POLL_S)
    except TimeoutError as error:
        raise UnauthenticatedError(
            f"the join token file {path} does not exist",
            code="join_token_invalid",
            hint=f"each token admits one node, once. Where {name} was installed anew its name is "
            f"taken: `drystone node forget {name} --yes` frees it, and in Kubernetes a token comes "
            "by itself; else `drystone node join-token` makes one",
        ) from error
