"""Suspicions of silent or still nodes, as the metadata store has them.

A suspicion's round is the revision that wrote its key, whichever manager wrote it: no two have the
same one, and a list that was read at an older revision says nothing about it. Beacons rely on both:
a promise ends with its round and with no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.records import Suspicion
from drystone_storaged.cluster.store import Compare, KeyValue, MetadataStore, Put


async def suspect(
    store: MetadataStore, node: str, conditions: Sequence[Compare] = ()
) -> Suspicion | None:
    """Write a suspicion; None = one stands already, or a condition does not hold."""
    key = keys.suspect(node)
    # The record cannot hold its round: that is known when it is written.
    record = Suspicion(node)
    written = await store.txn([*conditions, Compare.absent(key)], [Put(key, encode(record))])
    return replace(record, round=written.revision) if written.succeeded else None


def stands(suspicion: Suspicion) -> Compare:
    """Say that this suspicion, and no later one of the same node, still stands."""
    return Compare.mod(keys.suspect(suspicion.node), suspicion.round)


async def standing(store: MetadataStore) -> tuple[int, list[Suspicion]]:
    """Give every suspicion that stands, and a revision: one of a later round may be missing."""
    revision = await store.revision()
    found: list[Suspicion] = []
    after = ""
    while True:
        page = await store.range(keys.SUSPECTS, after=after)
        found += [_read(item) for item in page.items]
        if not page.more:
            return revision, found
        after = page.items[-1].key


def _read(item: KeyValue) -> Suspicion:
    return replace(decode(Suspicion, item.value), round=item.mod_revision)
