"""Credentials of processes: a MAC over role and uuid, checked without the store.

`dsc1.<server|client|beacon>.<uuid hex>.<key epoch>.<mac hex>`; the MAC's key is derived from the
master, so a credential opens nothing but the control channel.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import UnauthenticatedError
from drystone_storaged.cluster.nodes import Role

_FORM: Final = re.compile(
    r"dsc1\.(server|client|beacon)\.([0-9a-f]{32})\.([0-9]{1,9})\.([0-9a-f]{64})"
)
_ROLES: Final[dict[str, Role]] = {"server": "server", "client": "client", "beacon": "beacon"}


@dataclass(frozen=True, slots=True)
class Peer:
    """Who calls."""

    role: Role
    uuid: str


class Credentials:
    """Makes and checks credentials; the key epochs ``epoch`` and ``epoch`` - 1 are valid."""

    def __init__(self, master: bytes, epoch: int) -> None:
        self._master = master
        self.epoch: Final = epoch

    def issue(self, peer: Peer) -> str:
        """The credential of a process."""
        return f"dsc1.{peer.role}.{peer.uuid}.{self.epoch}.{self._mac(peer, self.epoch)}"

    def check(self, credential: str) -> Peer:
        """Who this credential names, if it verifies."""
        form = _FORM.fullmatch(credential)
        if form is not None:
            peer = Peer(_ROLES[form[1]], form[2])
            epoch = int(form[3])
            fresh = epoch in (self.epoch, self.epoch - 1)
            if hmac.compare_digest(self._mac(peer, epoch), form[4]) and fresh:
                return peer
        raise UnauthenticatedError(
            "the credential is not valid",
            code="unauthenticated",
            hint="register again with a join token",
        )

    def _mac(self, peer: Peer, epoch: int) -> str:
        message = f"control\0{peer.role}\0{peer.uuid}\0{epoch}".encode()
        return hmac.new(self._master, message, hashlib.sha256).hexdigest()
