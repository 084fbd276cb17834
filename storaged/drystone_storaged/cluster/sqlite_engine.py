"""What the SQLite store does inside its one thread: plain functions over one connection.

Nothing here is asynchronous. ``store_sqlite`` owns the thread, the lock file and the answers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from drystone_common.errors import DataError
from drystone_storaged.cluster.store import (
    RANGE_LIMIT_MAX,
    CompactedError,
    Compare,
    Event,
    Get,
    KeyValue,
    LeaseNotFoundError,
    Op,
    Put,
    RangeResult,
    Relation,
    Target,
    TxnResult,
    View,
    WatchBatch,
)

FORMAT: Final = "1"
HISTORY_REVISIONS: Final = 20_000  # far more than a watcher can lag in 5 minutes of ordinary work
COMPACT_EVERY: Final = (
    1_000  # revisions between two compactions: their cost disappears in the writes
)
EVENTS_MAX: Final = 1_000  # of one batch of a watch, cut at a whole revision: bounds memory

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS kv (
  key TEXT PRIMARY KEY, value BLOB NOT NULL, create_rev INTEGER NOT NULL,
  mod_rev INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS kv_lease ON kv (lease) WHERE lease != 0;
CREATE INDEX IF NOT EXISTS kv_mod ON kv (mod_rev);
CREATE TABLE IF NOT EXISTS log (
  rev INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, create_rev INTEGER NOT NULL,
  version INTEGER NOT NULL, PRIMARY KEY (rev, key)) WITHOUT ROWID;
"""


DAMAGED: Final = "store_damaged"
RESTORE: Final = (
    "restore the newest copy of it, see *Backup and loss of the manager* in docs/operations.md; do "
    "not start with an empty one over live drives"
)
_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_corrupt(error: Exception) -> bool:
    """Whether SQLite says that the file itself is damaged, not that it cannot be used now."""
    # Extended codes have the reason's details above the first eight bits.
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CORRUPT


class SqliteEngine:
    """The state of an open store; used by one thread only."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Transactions are opened by hand: one may hold many of the store's.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._leases: dict[int, tuple[float, float]] = {}
        self._lease_next = 0
        try:
            self._open()
            self.revision = int(self._meta("revision") or "1")
            self.compacted = int(self._meta("compacted") or "0")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise DataError(
                f"{path} is not a usable metadata store: {error}",
                code=DAMAGED,
                hint=RESTORE,
            ) from error
        self._committed = self.revision, self.compacted

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        found = self._meta("format")
        if found not in (None, FORMAT):
            raise DataError(
                f"the metadata store has format {found}, this program reads {FORMAT}",
                code="store_format",
            )
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (FORMAT,))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def begin(self) -> None:
        """Open a transaction of the database."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since ``begin`` durable."""
        self._set_meta("revision", self.revision)
        self._db.execute("COMMIT")
        self._committed = self.revision, self.compacted

    def rollback(self) -> None:
        """Take back everything since ``begin``; reads nothing, the file may be damaged."""
        self.revision, self.compacted = self._committed
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        row = self._db.execute("SELECT * FROM kv WHERE key = ?", (key,)).fetchone()
        return None if row is None else KeyValue(*row)

    def range(self, prefix: str, after: str, limit: int, min_mod: int) -> RangeResult:
        """Read keys of a prefix in order."""
        count = max(1, min(limit, RANGE_LIMIT_MAX))
        # Keys are ASCII: U+10FFFF sorts after every continuation of the prefix.
        rows = self._db.execute(
            "SELECT * FROM kv WHERE key >= ? AND key < ? AND key > ? AND mod_rev >= ?"
            " ORDER BY key LIMIT ?",
            (prefix, prefix + "\U0010ffff", after, min_mod, count + 1),
        ).fetchall()
        items = tuple(KeyValue(*row) for row in rows[:count])
        return RangeResult(self.revision, items, more=len(rows) > count)

    def view(self, keys: Sequence[str], prefixes: Sequence[str]) -> View:
        """Read keys and prefixes; nothing else runs meanwhile."""
        parts = tuple(self._whole(prefix) for prefix in prefixes)
        return View(self.revision, tuple(self.get(key) for key in keys), parts)

    def _whole(self, prefix: str) -> tuple[KeyValue, ...]:
        items: list[KeyValue] = []
        more = True
        while more:
            page = self.range(prefix, items[-1].key if items else "", RANGE_LIMIT_MAX, 0)
            items += page.items
            more = page.more
        return tuple(items)

    def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], other: Sequence[Op]
    ) -> TxnResult:
        """Run one transaction of the store; ``begin`` was called."""
        succeeded = all(self._holds(compare) for compare in compares)
        ops = then if succeeded else other
        for op in ops:
            if isinstance(op, Put) and op.lease and op.lease not in self._leases:
                raise LeaseNotFoundError(f"lease {op.lease} does not exist")
        return TxnResult(succeeded, *self._apply(ops))

    def _apply(self, ops: Sequence[Op]) -> tuple[int, tuple[KeyValue | None, ...]]:
        reads: list[KeyValue | None] = []
        revision = self.revision + 1
        wrote = False
        for op in ops:
            if isinstance(op, Get):
                reads.append(self.get(op.key))
            elif isinstance(op, Put):
                self._put(op, revision)
                wrote = True
            else:
                wrote = self._delete(op.key, revision) or wrote
        if wrote:
            self.revision = revision
            if revision % COMPACT_EVERY == 0:
                self.compact(revision - HISTORY_REVISIONS)
        return self.revision, tuple(reads)

    def _put(self, op: Put, revision: int) -> None:
        old = self.get(op.key)
        created = old.create_revision if old else revision
        version = old.version + 1 if old else 1
        self._db.execute(
            "INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?, ?, ?)",
            (op.key, op.value, created, revision, version, op.lease),
        )
        self._db.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?)", (revision, op.key, op.value, created, version)
        )

    def _delete(self, key: str, revision: int) -> bool:
        if self._db.execute("DELETE FROM kv WHERE key = ?", (key,)).rowcount == 0:
            return False
        self._db.execute("INSERT INTO log VALUES (?, ?, NULL, 0, 0)", (revision, key))
        return True

    def _holds(self, compare: Compare) -> bool:
        kv = self.get(compare.key)
        found = _field(kv, compare.target)
        if isinstance(found, bytes) and isinstance(compare.operand, bytes):
            return _relate(compare.relation, (found > compare.operand) - (found < compare.operand))
        if isinstance(found, int) and isinstance(compare.operand, int):
            return _relate(compare.relation, (found > compare.operand) - (found < compare.operand))
        return False

    def events(self, prefix: str, start: int) -> WatchBatch:
        """Give events from revision ``start`` on, whole revisions only."""
        if start <= self.compacted:
            raise CompactedError(self.compacted)
        rows = self._db.execute(
            "SELECT rev, key, value, create_rev, version FROM log WHERE rev >= ? AND key >= ?"
            " AND key < ? ORDER BY rev, key LIMIT ?",
            (start, prefix, prefix + "\U0010ffff", EVENTS_MAX),
        ).fetchall()
        upto = self.revision
        if len(rows) == EVENTS_MAX and rows[0][0] != rows[-1][0]:
            upto = rows[-1][0] - 1
            rows = [row for row in rows if row[0] <= upto]
        return WatchBatch(upto, tuple(Event(r[1], r[2], r[0], r[3], r[4]) for r in rows))

    def compact(self, revision: int) -> None:
        """Forget history up to and including ``revision`` - 1."""
        bound = min(revision, self.revision)
        if bound - 1 > self.compacted:
            self._db.execute("DELETE FROM log WHERE rev < ?", (bound,))
            self.compacted = bound - 1
            self._set_meta("compacted", self.compacted)

    def lease_grant(self, ttl_s: float) -> int:
        """Make a lease. Leases live in memory: the store's lock says that its holder lives."""
        self._lease_next += 1
        self._leases[self._lease_next] = (ttl_s, self._clock() + ttl_s)
        return self._lease_next

    def lease_keepalive(self, lease: int) -> None:
        """Start its time anew."""
        if lease not in self._leases:
            raise LeaseNotFoundError(f"lease {lease} expired or was revoked")
        ttl_s = self._leases[lease][0]
        self._leases[lease] = (ttl_s, self._clock() + ttl_s)

    def lease_revoke(self, lease: int) -> None:
        """End it; its keys go in one revision."""
        self._leases.pop(lease, None)
        self._delete_where("lease = ?", lease)

    def expire(self) -> None:
        """End leases whose time is over."""
        now = self._clock()
        for lease in [i for i, (_, end) in self._leases.items() if end <= now]:
            self.lease_revoke(lease)

    def forget_leases(self) -> None:
        """At open: whoever held leases is dead, since the store is locked by us."""
        self._delete_where("lease != ?", 0)

    def lease_due_s(self) -> float | None:
        """Seconds until the next lease ends."""
        ends = [end for _, end in self._leases.values()]
        return max(0.0, min(ends) - self._clock()) if ends else None

    def _delete_where(self, condition: str, operand: int) -> None:
        query = f"SELECT key FROM kv WHERE {condition}"  # noqa: S608 - constants of this module
        keys = [row[0] for row in self._db.execute(query, (operand,)).fetchall()]
        if keys:
            self.revision += 1
            for key in keys:
                self._delete(key, self.revision)

    def _meta(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set_meta(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, str(value)))


def _field(kv: KeyValue | None, target: Target) -> int | bytes | None:
    if kv is None:
        # As in etcd: a missing key has zeros, and no value that anything could be compared with.
        return None if target is Target.VALUE else 0
    if target is Target.VALUE:
        return kv.value
    if target is Target.VERSION:
        return kv.version
    return kv.create_revision if target is Target.CREATE else kv.mod_revision


def _relate(relation: Relation, sign: int) -> bool:
    return {
        Relation.EQUAL: sign == 0,
        Relation.NOT_EQUAL: sign != 0,
        Relation.GREATER: sign > 0,
        Relation.LESS: sign < 0,
    }[relation]
