"""Orders to free layers: done when every drive that may hold the layer confirmed (§4.1, §7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.fence import by_node
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.records import DriveState, Order
from drystone_storaged.cluster.store import Compare, Delete, MetadataStore, Put

PAGE = 64  # orders looked at together: one pass stays short, the next goes on


class OrderSender(Protocol):
    """Asks the servers to free a layer; gives the drives that did, durably."""

    async def free_layer(
        self, order: Order, drives: Mapping[str, Sequence[int]]
    ) -> Collection[int]:
        """Free on drives, given by node."""


def holders(state: MapState, pool: int) -> tuple[set[int], set[int]]:
    """Drives that must confirm (in sync, joining or out), and those whose answer does not count.

    A joiner may still copy the layer from a source that has not freed it, and so may a drive
    that is out once it joins: they confirm after their promotion, also if they did before.
    """
    required: set[int] = set()
    absent: set[int] = set()
    for record in state.pgs(pool).values():
        away = [*(j.drive for j in record.joining), *(o.drive for o in record.out)]
        required.update(record.insync, away)
        absent.update(away)
    gone = {d.id for d in state.drives.values() if d.state is DriveState.GONE}
    return required - gone, absent


class OrderService:
    """Carries orders out; ``run`` is called again and again, and does what is possible now."""

    def __init__(self, store: MetadataStore, sender: OrderSender) -> None:
        self._store = store
        self._sender = sender

    async def run(self) -> int:
        """Look at every order once; give how many remain."""
        left = 0
        after = ""
        more = True
        while more:
            page = await self._store.range(keys.ORDERS, after=after, limit=PAGE)
            state = await read_state(self._store) if page.items else None
            for item in page.items:
                order = decode(Order, item.value)
                if state is None:
                    continue
                # Where who holds the layer is not known it waits; others go on.
                unknown = order.pool in state.unreadable_pools
                if unknown or not await self._carry_out(state, order, item.mod_revision):
                    left += 1
            more = page.more
            after = page.items[-1].key if page.items else ""
        return left

    async def _carry_out(self, state: MapState, order: Order, revision: int) -> bool:
        required, absent = holders(state, order.pool)
        valid = set(order.confirmed) - absent
        open_drives = required - valid - absent
        up = {d.id for d in state.drives.values() if d.state is DriveState.UP} & open_drives
        done = set(await self._sender.free_layer(order, by_node(state, up))) if up else set()
        confirmed = tuple(sorted(valid | (done & up)))
        key = keys.order(order.pool, order.id)
        compare = [Compare.mod(key, revision)]
        if required <= set(confirmed) and await self._same_holders(state, order.pool):
            result = await self._store.txn(compare, [Delete(key), Delete(keys.layer(order.layer))])
            return result.succeeded
        if confirmed != order.confirmed:
            await self._store.txn(compare, [Put(key, encode(replace(order, confirmed=confirmed)))])
        return False

    async def _same_holders(self, state: MapState, pool: int) -> bool:
        # Who had to confirm is taken from one map revision, which must still be the current one.
        now = await read_state(self._store)
        now.require([pool])
        return now.revision == state.revision or holders(now, pool) == holders(state, pool)

    async def pending(self, drive: int, pools: Collection[int]) -> list[Order]:
        """Orders that a returning drive has not confirmed."""
        out: list[Order] = []
        for pool in sorted(pools):
            page = await self._store.range(f"{keys.ORDERS}{pool:04x}/")
            orders = [decode(Order, item.value) for item in page.items]
            out += [order for order in orders if drive not in order.confirmed]
        return out


class Usage:
    """Bytes that volumes use, from what servers report of layers; in memory, rebuilt by reports."""

    def __init__(self) -> None:
        self._layers: dict[int, dict[int, int]] = defaultdict(dict)

    def report(self, drive: int, figures: Mapping[int, int], *, complete: bool) -> None:
        """Take over absolute figures: layer → mapped bytes where this drive is first in sync."""
        if complete:
            self.forget(drive)
        for layer, mapped in figures.items():
            if mapped:
                self._layers[layer][drive] = mapped
            else:
                self._layers.get(layer, {}).pop(drive, None)

    def forget(self, drive: int) -> None:
        """A drive left: whoever is first in sync now reports its layers."""
        for drives in self._layers.values():
            drives.pop(drive, None)

    def clear(self) -> None:
        """Nothing is known."""
        self._layers.clear()

    def used(self, layers: Sequence[int]) -> int | None:
        """Bytes of a chain of layers; None = nobody reported yet."""
        known = [self._layers[layer] for layer in layers if layer in self._layers]
        return sum(sum(drives.values()) for drives in known) if known else None
