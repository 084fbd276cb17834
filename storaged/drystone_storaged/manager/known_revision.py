"""The newest state of the shared store that this manager has seen: it leads no older one.

A store that was put back from a backup hands numbers out again that are in use. Drives refuse it
when they are opened; this keeps a manager that saw the newer state, or hears of it from a server,
from acting on the old one at all. Nor does a manager lead a store whose recovery is not finished.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from drystone_common.errors import DataError, DrystoneError, NotFoundError
from drystone_common.files import atomic_write_json, read_json
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.cluster.store_etcd import EtcdStore

log = get_logger(__name__)

SAVE_S: Final = 10.0
"""Between two notes on disk: a manager that restarts knows a state that is at most this old."""

FILE_NAME: Final = "revision.json"


REVISION_MAX: Final = 2**62  # larger numbers are no revisions; SQLite's integers end at 2^63

INCARNATION_MAX: Final = 2**31  # one more with each recovery

RECOVER: Final = (
    "stop every manager and put the newest store back; an old one hands numbers out again that are "
    "in use. Where there is no newer one: `drystone recover metadata`"
)


class KnownRevision:
    """What was seen, in memory and in the state folder."""

    def __init__(
        self, store: MetadataStore, leadership: Leadership, cluster: str, folder: Path
    ) -> None:
        self._leadership = leadership
        leadership.before_claim.append(self.check)
        self._store = store
        self._cluster = cluster
        self._file = folder / FILE_NAME
        self._known = self._load()
        self._saved = self._known
        self._heard = (0, 0)
        self._heard_of = ""

    async def heard(self, incarnation: int, revision: int, server: str) -> None:
        """A server has seen this much: an older store is led no more, and this raises.

        What it hears this manager keeps in memory alone: servers say it again. One server's word
        is enough, as the others may be away: it is named, should it be the one that is wrong.
        """
        told = (incarnation, revision)
        if revision > REVISION_MAX or incarnation > INCARNATION_MAX:
            log.warning("a server names no state of a store", node=server)
            return
        if told <= max(self._known, self._heard):
            return
        self._heard, self._heard_of = told, server
        try:
            await self.check()
        except DataError:
            self._leadership.forsake()
            raise

    async def check(self) -> None:
        """Raise ``DataError`` where the store is older than what is known, or half recovered."""
        if await self._store.get(keys.RECOVERY) is not None:
            raise DataError(
                "a recovery of the metadata store was begun and is not finished",
                code="recovery_unfinished",
                hint="run `drystone recover metadata` again, with the same scans",
            )
        # Taken before the question: an answer to a later one cannot be lower.
        answered = self._store.highest_revision if isinstance(self._store, EtcdStore) else 0
        incarnation, revision = max(self._known, self._heard)
        revision = max(revision, answered)
        raw = await self._store.get(keys.INCARNATION)
        found = (int(raw.value) if raw else 1, await self._store.revision())
        if found < (incarnation, revision):
            heard = self._heard_of and (incarnation, revision) == self._heard
            who = f"the server {self._heard_of} has seen" if heard else "this manager has seen"
            raise DataError(
                f"the metadata store is at revision {found[1]} (incarnation {found[0]}), and {who} "
                f"revision {revision} (incarnation {incarnation}): it is an older copy",
                code="store_too_old",
                hint=RECOVER,
            )
        if found[0] > incarnation and isinstance(self._store, EtcdStore):
            self._store.highest_revision = found[1]  # what was seen before was another count
        self._known = found

    async def run(self) -> None:
        """Look, stop leading an older copy, and note on disk what is seen; until cancelled."""
        told = False
        while True:
            try:
                await self.check()
            except DataError as error:
                if not told:
                    log.warning("the metadata store is an older copy", reason=str(error))
                told = True
                self._leadership.forsake()
            else:
                told = False
                await self._note()
            await asyncio.sleep(SAVE_S)

    async def _note(self) -> None:
        if self._known != self._saved:
            known = self._known
            await asyncio.to_thread(self._save, known)
            self._saved = known

    def _save(self, known: tuple[int, int]) -> None:
        record = {"cluster": self._cluster, "incarnation": known[0], "revision": known[1]}
        atomic_write_json(self._file, record)

    def _load(self) -> tuple[int, int]:
        try:
            raw = read_json(self._file)
        except NotFoundError:
            return (0, 0)  # none yet
        except (DrystoneError, OSError) as error:
            # It only ever adds to what drives refuse, so the manager goes on; but not silently.
            log.warning(
                "the revision seen last cannot be read", file=str(self._file), reason=str(error)
            )
            return (0, 0)
        if not isinstance(raw, dict) or raw.get("cluster") != self._cluster:
            return (0, 0)  # of an earlier cluster
        numbers = (raw.get("incarnation"), raw.get("revision"))
        return numbers if all(type(n) is int for n in numbers) else (0, 0)  # type: ignore[return-value]
