"""Between the store's words and etcd's messages. Pure; a namespace goes before every key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from drystone_storaged.cluster.store import (
    RANGE_LIMIT_MAX,
    Compare,
    Delete,
    Event,
    Get,
    KeyValue,
    Op,
    Put,
    Relation,
    Target,
    TxnResult,
)
from drystone_storaged.proto import etcd_pb2 as pb

_RELATIONS: Final = {
    Relation.EQUAL: pb.Compare.EQUAL,
    Relation.NOT_EQUAL: pb.Compare.NOT_EQUAL,
    Relation.GREATER: pb.Compare.GREATER,
    Relation.LESS: pb.Compare.LESS,
}


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with ``prefix`` (etcd's convention for a prefix range).

    Keys are printable ASCII, so the last byte can always be raised by one.
    """
    return prefix[:-1] + bytes([prefix[-1] + 1])


class Codec:
    """Translates for one namespace, for example ``/drystone/prod``."""

    def __init__(self, namespace: str) -> None:
        self._before: Final = namespace.encode("ascii")

    def key(self, key: str) -> bytes:
        """A key as etcd has it."""
        return self._before + key.encode("ascii", "surrogateescape")

    def text(self, key: bytes) -> str:
        """A key as the store has it."""
        # Ours are ASCII. Somebody else's are any bytes: they stay what they are, both ways, so that
        # they can be paged over and named, and are never taken for one of ours.
        return key[len(self._before) :].decode("ascii", "surrogateescape")

    def range(
        self,
        prefix: str,
        *,
        after: str = "",
        limit: int,
        min_mod_revision: int = 0,
        revision: int = 0,
    ) -> pb.RangeRequest:
        """Keys of a prefix that sort after ``after``; as of a ``revision``, 0 = of now."""
        first = self.key(prefix)
        start = max(first, self.key(after) + b"\0") if after else first
        return pb.RangeRequest(
            key=start,
            range_end=prefix_end(first),
            limit=limit,
            revision=revision,
            min_mod_revision=min_mod_revision,
        )

    def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op]
    ) -> pb.TxnRequest:
        """A transaction."""
        return pb.TxnRequest(
            compare=[self._compare(compare) for compare in compares],
            success=[self._op(op) for op in then],
            failure=[self._op(op) for op in otherwise],
        )

    def view(self, keys: Iterable[str], prefixes: Iterable[str]) -> pb.TxnRequest:
        """A transaction that reads keys, and then prefixes."""
        ranges = [pb.RangeRequest(key=self.key(key)) for key in keys]
        ranges += [self.range(prefix, limit=RANGE_LIMIT_MAX) for prefix in prefixes]
        return pb.TxnRequest(success=[pb.RequestOp(request_range=each) for each in ranges])

    def result(self, answer: pb.TxnResponse) -> TxnResult:
        """Which branch ran, and what its reads saw."""
        ranges = [
            response.response_range
            for response in answer.responses
            if response.HasField("response_range")
        ]
        reads = tuple(self.kv(found.kvs[0]) if found.kvs else None for found in ranges)
        return TxnResult(answer.succeeded, answer.header.revision, reads)

    def kv(self, found: pb.KeyValue) -> KeyValue:
        """One key with its value."""
        return KeyValue(
            key=self.text(found.key),
            value=found.value,
            create_revision=found.create_revision,
            mod_revision=found.mod_revision,
            version=found.version,
            lease=found.lease,
        )

    def events(self, events: Iterable[pb.Event]) -> tuple[Event, ...]:
        """Changes, in order."""
        return tuple(self._event(event) for event in events)

    def _event(self, event: pb.Event) -> Event:
        kv = event.kv
        if event.type == pb.Event.DELETE:
            return Event(self.text(kv.key), None, kv.mod_revision)
        return Event(self.text(kv.key), kv.value, kv.mod_revision, kv.create_revision, kv.version)

    def _compare(self, compare: Compare) -> pb.Compare:
        made = pb.Compare(result=_RELATIONS[compare.relation], key=self.key(compare.key))
        operand = compare.operand
        if isinstance(operand, bytes):
            made.target, made.value = pb.Compare.VALUE, operand
        elif compare.target is Target.CREATE:
            made.target, made.create_revision = pb.Compare.CREATE, operand
        elif compare.target is Target.MOD:
            made.target, made.mod_revision = pb.Compare.MOD, operand
        else:
            made.target, made.version = pb.Compare.VERSION, operand
        return made

    def _op(self, op: Op) -> pb.RequestOp:
        match op:
            case Put(key, value, lease):
                put = pb.PutRequest(key=self.key(key), value=value, lease=lease)
                return pb.RequestOp(request_put=put)
            case Delete(key):
                return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=self.key(key)))
            case Get(key):
                return pb.RequestOp(request_range=pb.RangeRequest(key=self.key(key)))
