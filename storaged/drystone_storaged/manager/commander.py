"""Commands to servers and beacons as the services need them: fence, promise, revoke, scrub."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from drystone_common.errors import DrystoneError
from drystone_storaged.cluster.fence import FenceDrives
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.nodes import Role
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.records import Order, Suspicion, Volume
from drystone_storaged.manager.control.sessions import SessionRegistry
from drystone_storaged.manager.refusals import FAILED
from drystone_storaged.proto import control_pb2 as pb

FENCE_S: Final = 2.0  # drains one log group and one flush; a silent server is asked again
FREE_S: Final = 5.0  # one record per drive; not urgent
QUIESCE_S: Final = 1.0  # reads in progress end; one that hangs is no proof and the drop waits
PROMISE_S: Final = 0.5  # answered from the beacon's memory
REVOKE_S: Final = 0.5  # answered from the beacon's memory and a lock of the kernel
PROBE_S: Final = 0.5  # answered from counters
EXERCISE_S: Final = 12.0  # the engine ends it after 10 s
REASON_MAX: Final = 500  # of what a server says: a sentence a drive
SCRUB_S: Final = 14 * 86_400.0  # 20 MiB/s beside clients are 24 TB in two weeks
COMPARE_S: Final = 24 * 3600.0  # 80 MiB of data a second beside clients are 6 TB a day and group


class Commander:
    """Implements ``FenceSender`` and ``OrderSender``, and the rest of what loops ask."""

    def __init__(self, sessions: SessionRegistry) -> None:
        self._sessions = sessions
        self._unfenced: dict[str, str] = {}

    async def fence(
        self, volume: Volume, drives: Mapping[str, Sequence[int]], map_revision: int
    ) -> FenceDrives:
        """Seal the volume's generation on drives."""

        async def one(node: str, numbers: Sequence[int]) -> dict[int, int]:
            fence = pb.Fence(
                volume=volume.id, generation=volume.generation, nonce=volume.owner,
                drives=numbers, map_revision=map_revision,
            )  # fmt: skip
            result = await self._ask(node, pb.Command(fence=fence), FENCE_S)
            self._unfenced[node] = result.message[:REASON_MAX] if result is not None else ""
            if result is None:
                return {}
            return {done.drive: done.sealed_generation for done in result.drives}

        answers = await asyncio.gather(*(one(n, d) for n, d in drives.items()))
        return {drive: generation for part in answers for drive, generation in part.items()}

    def why_unfenced(self, nodes: Collection[str]) -> str:
        """What servers last said of drives that they could not fence; empty if nothing."""
        return "; ".join(filter(None, (self._unfenced.get(node, "") for node in sorted(nodes))))

    async def free_layer(
        self, order: Order, drives: Mapping[str, Sequence[int]]
    ) -> Collection[int]:
        """Free a layer on drives."""

        async def one(node: str, numbers: Sequence[int]) -> list[int]:
            free = pb.FreeLayer(order=order.id, pool=order.pool, layer=order.layer, drives=numbers)
            result = await self._ask(node, pb.Command(free_layer=free), FREE_S)
            return [done.drive for done in result.drives] if result is not None else []

        answers = await asyncio.gather(*(one(n, d) for n, d in drives.items()))
        return {drive for part in answers for drive in part}

    async def quiesce(self, node: str, drive: int, pgs: Mapping[PgRef, PgRecord]) -> bool:
        """Have a live drive answer no reads of these PGs; True = it promised."""
        listed = [pb.Pg(pool=r.pool, pg=r.pg, epoch=rec.epoch) for r, rec in pgs.items()]
        command = pb.Command(quiesce=pb.Quiesce(drive=drive, pgs=listed))
        return await self._ask(node, command, QUIESCE_S) is not None

    async def promise(self, voter: str, suspicion: Suspicion, voters_version: int) -> bool:
        """Ask a voter not to echo a node any more."""
        suspect = pb.Suspect(node=bytes.fromhex(suspicion.node), round=suspicion.round)
        promise = pb.Promise(suspect=suspect, voters_version=voters_version)
        # The beacon is a process of its own, or inside the server.
        own = self._sessions.get(("beacon", voter)) is not None
        role: Role = "beacon" if own else "server"
        command = pb.Command(promise=promise)
        return await self._ask(voter, command, PROMISE_S, role=role) is not None

    async def revoke(self, node: str, instance: int, round_: int) -> bool:
        """Have a node's own beacon take its server the lease; True = it serves no reads.

        ``instance`` names the process. Round 0 only asks whether it is gone or stands still.
        """
        command = pb.Command(revoke=pb.Revoke(round=round_, instance=instance))
        return await self._ask(node, command, REVOKE_S, role="beacon") is not None

    async def probe_drive(self, node: str, drive: int) -> pb.CommandResult | None:
        """How a drive does, by its own server: `probe`, or the code `drive_failed`."""
        command = pb.Command(probe=pb.ProbeDrive(drive=drive))
        result = await self._answer(node, command, PROBE_S)
        return result if result is not None and result.code in ("", FAILED) else None

    async def exercise(
        self, node: str, drive: int, limit_s: float = EXERCISE_S
    ) -> pb.Exercised | None:
        """Test a drive's device by real operations; None where it could not be tested."""
        command = pb.Command(exercise=pb.Exercise(drive=drive))
        result = await self._ask(node, command, limit_s)
        if result is None or not result.HasField("exercise"):
            return None
        return result.exercise

    async def scrub(
        self, node: str, task: int, drive: int, progress: Callable[[pb.CommandResult], None]
    ) -> pb.CommandResult:
        """Have a drive read itself back; raises when the server is gone or refuses."""
        command = pb.Command(scrub=pb.Scrub(task=task, drive=drive))
        return await self._sessions.command(node, command, SCRUB_S, progress)

    async def compare(self, node: str, drive: int, ref: PgRef) -> pb.CommandResult:
        """Have a drive compare a group with its other members; raises as ``scrub`` does."""
        command = pb.Command(compare=pb.Compare(drive=drive, pool=ref.pool, pg=ref.pg))
        return await self._sessions.command(node, command, COMPARE_S)

    async def _ask(
        self, node: str, command: pb.Command, deadline_s: float, *, role: Role = "server"
    ) -> pb.CommandResult | None:
        """The answer of success; None for silence and for every refusal."""
        result = await self._answer(node, command, deadline_s, role=role)
        return result if result is not None and not result.code else None

    async def _answer(
        self, node: str, command: pb.Command, deadline_s: float, *, role: Role = "server"
    ) -> pb.CommandResult | None:
        if self._sessions.get((role, node)) is None:
            return None
        try:
            return await self._sessions.command(node, command, deadline_s, role=role)
        except DrystoneError:
            return None
