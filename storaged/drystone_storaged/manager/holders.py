"""Whether the server that has a drive open may still write to it, when another one asks for it.

A disk that two nodes reach is safe only while one of them writes. A session that ended is no proof
that a server did: it may be cut off from its manager and from nobody else.
"""

from __future__ import annotations

from collections.abc import Callable

from drystone_common.errors import NotFoundError
from drystone_storaged.cluster.drives import OpenRequest
from drystone_storaged.cluster.records import Drive, DriveState, Node
from drystone_storaged.manager.probe import Liveness
from drystone_storaged.manager.services import Services


async def look(services: Services, node: Node, request: OpenRequest) -> Callable[[Drive], bool]:
    """Look at the address of the open that there is; gives what says whether one may live."""
    try:
        drive = await services.drives.find(request.uuid)
    except NotFoundError:
        return lambda _: False
    # Where the caller is to listen nobody else does: there is nothing to be seen.
    mine = drive.node == node.uuid or drive.ended or drive.addr == request.addr
    found = Liveness.SILENT if mine else await services.env.prober.probe(drive.addr)

    def held(now: Drive) -> bool:
        # What was seen is about the open of then.
        seen = found if now.nonce == drive.nonce else Liveness.SILENT
        return _held(services, now, seen)

    return held


def _held(services: Services, drive: Drive, seen: Liveness) -> bool:
    if services.sessions.get(("server", drive.node)) is not None:
        return True
    # What was reported closed, or refused connections, is over, whoever led then.
    if drive.ended:
        return False
    if seen is Liveness.LISTENING:
        return True
    # One that was ready listened. Before that a refusal says nothing: it may be about to.
    if seen is Liveness.REFUSED and drive.state is DriveState.UP:
        return False
    return services.server_may_come_back(drive.node)
