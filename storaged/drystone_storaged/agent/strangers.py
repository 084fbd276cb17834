"""What the native threads refused, said in words: the figures only count it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drystone_common.logs import get_logger
from drystone_common.pace import Pace

_log = get_logger(__name__)

DATAGRAMS: Final[Mapping[str, str]] = {
    "malformed": "not a heartbeat of a beacon at all: something else sends to this port",
    "bad_mac": "signed with another key than this cluster's: a node of another cluster, or forged",
    "own_name": "signed in this node's own name: its state folder was copied, or forged",
    "stale": "not newer than what was heard: late, or recorded and repeated",
    "earlier_boot": "from before its sender's restart: recorded and repeated",
    "unanswered": "of a start that answers none of ours: recorded and repeated, or a path is cut",
    "too_many": "from more nodes than a cluster has",
}
"""Reasons of the beacon's thread, for a person."""

CONNECTIONS: Final[Mapping[str, str]] = {
    "malformed": "what came is not our protocol: something else connects to this port",
    "wrong_cluster": "the peer belongs to another cluster: check its settings",
    "protocol": "the peer speaks only other versions of the protocol: upgrade the older side",
    "key_epoch": "the peer's key is of an epoch that does not count any more, or not yet",
    "bad_proof": "the peer does not know its key: another cluster's, or somebody pretends",
    "bad_frame": "a peer that was admitted sent what breaks the protocol: a defect, or an attack",
    "too_slow": "nothing that admits a peer came within 5 s",
    "too_many": "more connections than a drive admits",
}
"""Reasons of a drive's thread, for a person."""

DENIED: Final = (
    "a peer asked for a volume without a ticket that names it and this volume, or for what its "
    "role may not do"
)


class Strangers:
    """Tells of refusals: the first of each kind at once, then once a minute with their number."""

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()

    def datagrams(self, refused: Mapping[str, int]) -> None:
        """Counts of the beacon's thread since its start, by reason."""
        for reason, total in refused.items():
            if count := self._pace.due(("datagrams", reason), total):
                _log.warning(
                    "datagrams_refused", reason=reason, count=count,
                    meaning=DATAGRAMS.get(reason, reason),
                )  # fmt: skip

    def connections(self, drive: int, refused: Mapping[str, int]) -> None:
        """Counts of a drive's thread since its open, by reason."""
        for reason, total in refused.items():
            if count := self._pace.due(("connections", drive, reason), total):
                _log.warning(
                    "connections_refused", drive=drive, reason=reason, count=count,
                    meaning=CONNECTIONS.get(reason, reason),
                )  # fmt: skip

    def denied(self, drive: int, total: int) -> None:
        """Requests of admitted peers that were not theirs to ask, since the drive's open."""
        if count := self._pace.due(("denied", drive), total):
            _log.warning("requests_denied", drive=drive, count=count, meaning=DENIED)
