"""`drystone recover metadata`: reads, plans, and changes the store while nobody leads."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import DataError, UnavailableError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.bootstrap import fingerprint
from drystone_storaged.cluster.recovery import Recovery, plan
from drystone_storaged.cluster.recovery_inputs import Inputs
from drystone_storaged.cluster.scans import NodeScan
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.manager.metadata import open_store
from drystone_storaged.manager.recovery.apply import Step, apply, leading
from drystone_storaged.manager.recovery.load import load_backup
from drystone_storaged.manager.secrets_files import load_master
from drystone_storaged.manager.settings import ManagerSettings

NAME: Final = "recover"
OPEN_S: Final = 30.0  # a member of etcd that was just restored needs some seconds to elect


@dataclass(frozen=True, slots=True)
class Recoverer:
    """One run of the command."""

    settings: ManagerSettings
    scans: tuple[NodeScan, ...]
    without: frozenset[int]
    now_s: int
    nonce: int
    step: Step = lambda _: None

    async def run(self, *, write: bool) -> tuple[Inputs, Recovery]:
        """Plan; and write what was planned, unless something is refused."""
        store = await self._open()
        try:
            await self._check_master(store)
            # Also for a mere plan: what a manager changes meanwhile would not be in it.
            async with leading(store, NAME) as mine:
                backup = await load_backup(mine)
                inputs = Inputs(backup, self.scans, self.without, self.now_s, self.nonce)
                # Beside the loop that keeps the leader's key: a large store takes seconds.
                found = await asyncio.to_thread(plan, inputs)
                if write and not found.refusals:
                    await apply(mine, found, backup.pools, self.step)
                return inputs, found
        finally:
            await store.close()

    async def _open(self) -> MetadataStore:
        if self.settings.metadata == "sqlite":
            path = self.settings.state_dir / "store.sqlite"
            if not await asyncio.to_thread(path.exists):
                raise DataError(
                    f"{path} does not exist",
                    code="store_missing",
                    hint="put a copy of the store back first",
                )
        try:
            async with asyncio.timeout(OPEN_S):
                return await open_store(self.settings)
        except TimeoutError as error:
            raise UnavailableError(
                f"etcd did not answer within {OPEN_S:.0f} s",
                code="store_unavailable",
                hint="start a majority of its members (`etcdctl endpoint health --cluster`), look "
                "at `etcd_endpoints` of the settings, then repeat",
            ) from error

    async def _check_master(self, store: MetadataStore) -> None:
        """The key of another cluster would tell of other settings: nothing is changed then."""
        known = await store.get(keys.MASTER)
        master = load_master(self.settings.master_path, founded=True, shared=store.shared)
        if known is not None and known.value != fingerprint(master):
            raise DataError(
                "the master key of these settings is not the one of this store's cluster",
                code="master_mismatch",
                hint="name the settings file of a manager of this cluster",
            )
