"""The REST tokens in use: read at the start and followed as their files change.

Files are looked at, not watched, as those of the certificate: Kubernetes swaps a link far above
them, which a watch on the file never sees.
"""

from __future__ import annotations

import asyncio
from typing import Final

from drystone_common.errors import DataError, DrystoneError
from drystone_common.filestamps import Stamp, stamps
from drystone_common.logs import get_logger
from drystone_storaged.manager.rest.guard import TokenTable
from drystone_storaged.manager.secrets_files import load_admin_token, load_tokens
from drystone_storaged.manager.settings import ManagerSettings

POLL_S: Final = 5.0
"""As for the certificate: a token that was taken away must go soon, and a look costs microseconds;
kubelet takes a minute to bring a new Secret."""

_log = get_logger(__name__)


class FollowedTokens:
    """The table that calls are checked against; each call meets the newest."""

    def __init__(self, settings: ManagerSettings) -> None:
        self._settings: Final = settings
        self._seen = self._look()
        self._told = ""
        self._tokens = self._load(may_make=True)
        self.table: Final = TokenTable(self._tokens)

    def reload(self) -> bool:
        """Take the files up if they changed; what cannot be used is told and changes nothing."""
        look = self._look()
        if look == self._seen:
            return False
        try:
            tokens = self._load(may_make=False)
        except (DrystoneError, OSError) as error:
            # Tried again until it is right, told once: a file may be written in several steps.
            if str(error) != self._told:
                self._told = str(error)
                _log.warning("tokens_not_loaded", error=self._told)
            return False
        self._seen, self._told = look, ""
        if tokens == self._tokens:
            return False
        self._tokens = tokens
        self.table.replace(tokens)
        _log.info("tokens_loaded", roles=sorted(tokens.values()))
        return True

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            self.reload()

    def _load(self, *, may_make: bool) -> dict[str, str]:
        path, admin = self._settings.tokens_path, self._settings.admin_token_file
        # Never made under a running manager: whoever took the old file away puts one there.
        shared = self._settings.metadata == "etcd" or not may_make
        tokens: dict[str, str] = {}
        if admin is None or not shared or path.exists():
            tokens = load_tokens(path, shared=shared)
        if admin is not None:
            tokens[load_admin_token(admin)] = "admin"
        if not tokens and not may_make:
            raise DataError(f"{path} holds no token", code="tokens_missing")
        return tokens

    def _look(self) -> tuple[Stamp, ...]:
        files = (self._settings.tokens_path, self._settings.admin_token_file)
        return stamps(path for path in files if path)
