"""Publishing, unpublishing and fences: how a client is shut out without being asked (§4.4).

A fence is a transaction (generation += 1, attachment removed) and its proof (every in-sync and
joining drive of the pool sealed that generation). The record remembers an unproven fence, so a
repeated call goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from drystone_common.errors import ConflictError, DeadlineError, NotFoundError
from drystone_storaged.cluster.attach import next_generation
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.records import (
    AttachMode,
    AttachState,
    Fencing,
    Publication,
    Volume,
)
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.cluster.volumes import VolumeService

PROOF_S: Final = 15.0  # a dead node is dropped within 5 s; more means that a PG has no copy left
POLL_S: Final = 0.1  # between two looks at the map while drives are missing
PROOFS_AT_ONCE: Final = 8  # each reads the map and asks every server of a pool
PAUSES_MAX: Final = 10  # a node with many volumes without proof: each looks once a second

FenceDrives = Mapping[int, int]
"""Drive → generation that it has sealed."""


class FenceSender(Protocol):
    """Asks the servers; the answer leaves out drives that could not be asked."""

    async def fence(
        self, volume: Volume, drives: Mapping[str, Sequence[int]], map_revision: int
    ) -> FenceDrives:
        """Seal ``volume.generation`` on drives, given by node."""

    def why_unfenced(self, nodes: Collection[str]) -> str:
        """What these servers last said of drives that they could not fence; empty if nothing."""


def plan_publish(volume: Volume, node: str, mode: AttachMode) -> Volume:
    """Allow a node to attach; rw excludes every other node."""
    mine = next((p for p in volume.publications if p.node == node), None)
    if mine is not None and mine.mode is mode:
        return volume
    if mine is not None:
        raise ConflictError(
            f"volume {volume.name} is published to {node} as {mine.mode.value}",
            code="volume_mode_conflict",
            hint="unpublish it there first",
        )
    others = volume.publications
    if others and (
        mode is AttachMode.READ_WRITE or any(p.mode is AttachMode.READ_WRITE for p in others)
    ):
        raise ConflictError(
            f"volume {volume.name} is published to {others[0].node}",
            code="volume_published_elsewhere",
            hint="unpublish it there first",
        )
    if volume.fencing is not None and node in volume.fencing.nodes:
        raise ConflictError(
            f"volume {volume.name} is being taken away from {node}", code="fence_pending",
            hint="repeat the unpublish until it succeeds",
        )  # fmt: skip
    return replace(volume, publications=(*volume.publications, Publication(node, mode)))


def plan_fence(
    volume: Volume,
    new_owner: int,
    *,
    nonce: int | None = None,
    generation: int | None = None,
    node: str | None = None,
) -> Volume:
    """Shut out what is meant, and only that: a repeated call never hits a newer owner.

    By attachment nonce, by generation, or by node; with none of them every attachment. What is
    meant and no longer there leaves the record as it is.
    """
    if generation is not None and generation != volume.generation:
        return volume
    victims = tuple(
        a
        for a in volume.attachments
        if (nonce is None or a.nonce == nonce) and (node is None or a.node == node)
    )
    if not victims and (nonce is not None or node is not None or generation is None):
        return volume
    # Readers that stay must take the new generation up: they are sealed again.
    kept = tuple(
        replace(a, state=AttachState.SEALING) for a in volume.attachments if a not in victims
    )
    raised = next_generation(volume)
    pending = volume.fencing or Fencing(raised, of=())
    shut_out = (*(pending.of or ()), *(a.node for a in victims))
    of = None if pending.of is None else tuple(dict.fromkeys(shut_out))
    writer = any(a.mode is AttachMode.READ_WRITE for a in victims)
    return replace(
        volume,
        generation=raised,
        owner=new_owner,
        clean=volume.clean and not writer,
        ticket_serial=1,
        attachments=kept,
        fencing=Fencing(raised, pending.nodes, of),
    )


def plan_unpublish(volume: Volume, node: str | None, new_owner: int) -> Volume:
    """First half of unpublish: attachments are fenced; the publication stays till the proof."""
    if node is None:
        nodes = {p.node for p in volume.publications} | {a.node for a in volume.attachments}
    else:
        nodes = {node}
    fenced = volume
    for name in sorted(nodes):
        fenced = plan_fence(fenced, new_owner, node=name)
    if fenced.fencing is None:
        # Nothing was attached there: the publication alone goes.
        kept = tuple(p for p in fenced.publications if p.node not in nodes)
        return replace(fenced, publications=kept)
    leaving = dict.fromkeys((*fenced.fencing.nodes, *sorted(nodes)))
    return replace(fenced, fencing=replace(fenced.fencing, nodes=tuple(leaving)))


def plan_proven(volume: Volume, generation: int) -> Volume:
    """Second half: the fence of ``generation`` is proven, those nodes have nothing any more."""
    if volume.fencing is None or volume.fencing.generation > generation:
        return volume
    nodes = volume.fencing.nodes
    kept = tuple(p for p in volume.publications if p.node not in nodes)
    return replace(volume, fencing=None, publications=kept)


@dataclass(frozen=True, slots=True)
class FencedNode:
    """What became of the fences of a node: of each volume it is proven, or why it is not."""

    proven: tuple[Volume, ...]
    unproven: tuple[tuple[Volume, DeadlineError], ...]


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long proofs of one call are waited for, how often and by how many at once."""

    deadline: float
    pause_s: float
    gate: asyncio.Semaphore


OnFenced = Callable[[Volume], None]
"""Told after the transaction and before the proof, so that a live client hears of it early."""


def _ignore(_: Volume) -> None:
    """Nobody wants to be told."""


class FenceService:
    """Publish, unpublish, fence, force-detach."""

    def __init__(
        self,
        store: MetadataStore,
        volumes: VolumeService,
        sender: FenceSender,
        *,
        monotonic: Callable[[], float],
        random_nonce: Callable[[], int],
        proof_s: float = PROOF_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._store = store
        self._volumes = volumes
        self._sender = sender
        self._monotonic = monotonic
        self._nonce = random_nonce
        self._proof_s = proof_s
        self._poll_s = poll_s
        self.on_proven: list[Callable[[Volume], None]] = []
        """Called when the fence of a volume is proven."""

    async def publish(self, number: int, node: str, mode: AttachMode) -> Volume:
        """Allow a node to attach."""
        return await self._volumes.update(number, lambda v: plan_publish(v, node, mode))

    async def unpublish(
        self, number: int, node: str | None, on_fenced: OnFenced = _ignore
    ) -> Volume:
        """Take a volume away from a node; afterwards it can write no more, proven."""
        owner = self._nonce()
        volume = await self._volumes.update(number, lambda v: plan_unpublish(v, node, owner))
        on_fenced(volume)
        return await self._finish(volume)

    async def fence(
        self,
        number: int,
        *,
        nonce: int | None = None,
        generation: int | None = None,
        node: str | None = None,
        on_fenced: OnFenced = _ignore,
    ) -> Volume:
        """Fence what is meant, proven; the publication stays unless an unpublish is pending."""
        owner = self._nonce()
        volume = await self._volumes.update(
            number,
            lambda v: plan_fence(v, owner, nonce=nonce, generation=generation, node=node),
        )
        on_fenced(volume)
        return await self._finish(volume)

    async def fence_node(self, numbers: Sequence[int], node: str) -> FencedNode:
        """Shut a node out of these volumes: one without a proof holds up none of the others."""
        owner = self._nonce()
        pending: list[Volume] = []
        proven: list[Volume] = []
        # Every order is in the store before the first proof is waited for.
        for number in numbers:
            try:
                volume = await self._volumes.update(
                    number, lambda v: plan_fence(v, owner, node=node)
                )
            except NotFoundError:
                continue  # deleted since: nothing can be written there
            waits = volume.fencing is not None and volume.fencing.concerns(node)
            (pending if waits else proven).append(volume)
        unproven: list[tuple[Volume, DeadlineError]] = []
        gate = asyncio.Semaphore(PROOFS_AT_ONCE)
        deadline = self._monotonic() + self._proof_s
        pause = self._poll_s * min(PAUSES_MAX, max(1, len(pending) // PROOFS_AT_ONCE))

        async def one(volume: Volume) -> None:
            try:
                await self._prove(volume, _Patience(deadline, pause, gate))
                proven.append(await self._proven(volume))
            except DeadlineError as error:
                unproven.append((volume, error))

        ended = await asyncio.gather(*map(one, pending), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error  # such as leadership that is lost: not about one volume
        return FencedNode(tuple(proven), tuple(unproven))

    async def _finish(self, volume: Volume) -> Volume:
        if volume.fencing is None:
            return volume
        deadline = self._monotonic() + self._proof_s
        await self._prove(volume, _Patience(deadline, self._poll_s, asyncio.Semaphore()))
        return await self._proven(volume)

    async def _proven(self, volume: Volume) -> Volume:
        generation = volume.generation
        done = await self._volumes.update(volume.id, lambda v: plan_proven(v, generation))
        for call in self.on_proven:
            call(done)
        return done

    async def _prove(self, volume: Volume, patience: _Patience) -> None:
        proven: set[int] = set()
        while True:
            # Held for one look only: who waits for a drive keeps nobody from asking others.
            async with patience.gate:
                state = await read_state(self._store)
                if volume.pool in state.unreadable_pools:
                    raise _unreadable(volume)
                missing = members_of(state, {volume.pool}) - proven
                if not missing:
                    return
                answers = await self._sender.fence(volume, by_node(state, missing), state.revision)
            sealed = {d for d, generation in answers.items() if generation >= volume.generation}
            proven |= sealed
            if missing <= sealed:
                continue
            if self._monotonic() >= patience.deadline:
                raise self._unproven(volume, state, missing - sealed)
            await asyncio.sleep(patience.pause_s)

    def _unproven(self, volume: Volume, state: MapState, left: set[int]) -> DeadlineError:
        why = self._sender.why_unfenced(by_node(state, left))
        return DeadlineError(
            f"volume {volume.name}: the fence is ordered but drives {sorted(left)} did not confirm"
            + (f" ({why})" if why else ""),
            code="fence_unproven",
            hint="cure what the drives say, or have them dropped (`drystone status`), then repeat"
            if why
            else "bring their servers back or wait until they are dropped, then repeat",
        )


def _unreadable(volume: Volume) -> DeadlineError:
    return DeadlineError(
        f"volume {volume.name}: the fence is ordered but which drives must confirm it is not "
        "known, a record of its pool in the metadata store cannot be read",
        code="fence_unproven",
        hint="repair the record that `drystone status` names, then repeat",
    )


def members_of(state: MapState, pools: set[int]) -> set[int]:
    """Every in-sync or joining drive of these pools."""
    return {
        drive for pool in pools for record in state.pgs(pool).values() for drive in record.members()
    }


def by_node(state: MapState, drives: set[int]) -> dict[str, list[int]]:
    """Group drives by the uuid of their node."""
    groups: dict[str, list[int]] = defaultdict(list)
    for drive in sorted(drives):
        # Of one that cannot be looked up nobody is asked, and nobody has answered.
        known = state.drives.get(drive)
        groups[known.node if known is not None else ""].append(drive)
    return dict(groups)
