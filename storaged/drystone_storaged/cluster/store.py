"""The metadata store as everything above sees it: etcd v3's transactions, nothing less or more.

Revisions are those of etcd: every transaction that writes takes one, all its keys share it.
A write whose answer is lost raises ``StoreUnavailableError``; it may have happened, so callers
read again before they repeat it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from drystone_common.errors import ConflictError, InvalidArgumentError, UnavailableError

OPS_MAX: Final = (
    128  # etcd's default --max-txn-ops; SQLite keeps the same so that both behave alike
)
REQUEST_BYTES_MAX: Final = 1_500_000  # a little below etcd's default --max-request-bytes (1.5 MiB)
KEY_BYTES_MAX: Final = 512  # the longest key in use has under 120 bytes
RANGE_LIMIT_MAX: Final = 10_000  # most keys of one answer: bounds memory; callers page


class StoreUnavailableError(UnavailableError):
    """The store did not answer. A write may or may not have happened."""

    default_code = "store_unavailable"


class StoreLimitError(InvalidArgumentError):
    """A request is larger than the store takes; a defect of the caller."""

    default_code = "store_limit"


class LeaseNotFoundError(ConflictError):
    """The lease expired or was revoked."""

    default_code = "lease_not_found"


class CompactedError(ConflictError):
    """History from the wanted revision on is gone: read the keys and watch from there."""

    default_code = "revision_compacted"

    def __init__(self, compact_revision: int) -> None:
        super().__init__(f"history before revision {compact_revision} is compacted")
        self.compact_revision: Final = compact_revision


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as of one revision."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class Target(Enum):
    """What of a key a comparison looks at.

    A missing key has zeros; with its value, which it has not, no comparison holds.
    """

    VALUE = "value"
    CREATE = "create"
    MOD = "mod"
    VERSION = "version"


class Relation(Enum):
    """How a comparison compares."""

    EQUAL = "="
    NOT_EQUAL = "!="
    GREATER = ">"
    LESS = "<"


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition of a transaction; all must hold."""

    key: str
    target: Target
    relation: Relation
    operand: int | bytes

    @classmethod
    def absent(cls, key: str) -> Compare:
        """The key does not exist."""
        return cls(key, Target.CREATE, Relation.EQUAL, 0)

    @classmethod
    def mod(cls, key: str, revision: int) -> Compare:
        """The key was last written at ``revision``; 0 = it does not exist."""
        return cls(key, Target.MOD, Relation.EQUAL, revision)

    @classmethod
    def created(cls, key: str, revision: int) -> Compare:
        """The key was created at ``revision``."""
        return cls(key, Target.CREATE, Relation.EQUAL, revision)


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key; ``lease`` 0 = none."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; a missing one is no error."""

    key: str


@dataclass(frozen=True, slots=True)
class Get:
    """Read one key as of the transaction."""

    key: str


Op = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class RangeResult:
    """Keys in order, as of ``revision``; ``more`` = the limit cut the answer."""

    revision: int
    items: tuple[KeyValue, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Several keys and prefixes as of one ``revision``, in the order in which they were named."""

    revision: int
    keys: tuple[KeyValue | None, ...]
    prefixes: tuple[tuple[KeyValue, ...], ...]


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Which branch ran. ``reads`` has one entry for each ``Get`` of that branch, in order."""

    succeeded: bool
    revision: int
    reads: tuple[KeyValue | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """A key was written (``value`` set) or deleted (``value`` None) at ``mod_revision``."""

    key: str
    value: bytes | None
    mod_revision: int
    create_revision: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events of whole revisions, in order; nothing of the prefix up to ``revision`` is missing."""

    revision: int
    events: tuple[Event, ...]


class MetadataStore(Protocol):
    """What ``store_sqlite`` and ``store_etcd`` implement; one suite checks both."""

    @property
    def shared(self) -> bool:
        """Whether other processes can use the store while this one has it open."""

    async def get(self, key: str) -> KeyValue | None:
        """Read one key, linearizably."""

    async def range(
        self,
        prefix: str,
        *,
        after: str = "",
        limit: int = RANGE_LIMIT_MAX,
        min_mod_revision: int = 0,
    ) -> RangeResult:
        """Read keys that begin with ``prefix`` and sort after ``after``, linearizably.

        ``min_mod_revision`` leaves out keys last written before that revision.
        """

    async def view(self, keys: Sequence[str], prefixes: Sequence[str]) -> View:
        """Read these keys and all keys of these prefixes as of one moment, linearizably.

        One question to the store whatever it holds, but for prefixes of more than
        ``RANGE_LIMIT_MAX`` keys.
        """

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()
    ) -> TxnResult:
        """Run ``then`` if every comparison holds, else ``otherwise``, as one step, durably."""

    async def revision(self) -> int:
        """Give the current revision, linearizably."""

    def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch]:
        """Give every event of the prefix from that revision on, without gap or repetition.

        Raises ``CompactedError`` when that history is gone.
        """

    async def lease_grant(self, ttl_s: float) -> int:
        """Make a lease; keys put with it vanish when it ends."""

    async def lease_keepalive(self, lease: int) -> None:
        """Start the lease's time anew, or raise ``LeaseNotFoundError``."""

    async def lease_revoke(self, lease: int) -> None:
        """End the lease now; one that is gone is no error."""

    async def compact(self, revision: int) -> None:
        """Forget history before ``revision``; current keys stay."""

    async def close(self) -> None:
        """Release everything; pending calls fail with ``StoreUnavailableError``."""


def check_limits(compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op]) -> None:
    """Refuse what etcd would refuse, so that SQLite hides no defect."""
    if max(len(compares), len(then), len(otherwise)) > OPS_MAX:
        raise StoreLimitError(f"a transaction has more than {OPS_MAX} operations")
    for branch in (then, otherwise):
        written = [op.key for op in branch if not isinstance(op, Get)]
        if len(written) != len(set(written)):
            raise StoreLimitError("a transaction writes one key twice")
    size = sum(len(op.value) for op in (*then, *otherwise) if isinstance(op, Put))
    keys = [op.key for op in (*then, *otherwise)] + [c.key for c in compares]
    if size + sum(len(key) for key in keys) > REQUEST_BYTES_MAX:
        raise StoreLimitError(f"a transaction has more than {REQUEST_BYTES_MAX} bytes")
    for key in keys:
        check_key(key)


def check_view(keys: Sequence[str], prefixes: Sequence[str]) -> None:
    """Refuse a view that etcd would refuse."""
    if len(keys) + len(prefixes) > OPS_MAX:
        raise StoreLimitError(f"a view has more than {OPS_MAX} keys and prefixes")
    for key in (*keys, *prefixes):
        check_key(key)


def check_key(key: str) -> None:
    """Keys are printable ASCII, so that every implementation sorts them alike."""
    if not 1 <= len(key) <= KEY_BYTES_MAX or not key.isascii() or not key.isprintable():
        raise StoreLimitError(f"{key[:80]!a} is not a key")
