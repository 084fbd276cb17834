"""How fast the checker is: ``python -m tests.e2e.nemesis.speed [OPERATIONS]``. Judges nothing."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.e2e.nemesis.check import check
from tests.e2e.nemesis.collect import collect
from tests.e2e.nemesis.history import ZERO, Verb, value_of
from tests.e2e.nemesis.journal import Journal, Kind, Record

OPERATIONS: Final = 200_000
BLOCKS: Final = 1088  # 64 that everybody uses, and cold ones, as the load has them
HOT: Final = 64
CLIENTS: Final = 4
TRIMMED: Final = 32


def _write_down(folder: Path, operations: int) -> None:
    """Journals of a volume that kept its word: clients take turns, their requests overlap."""
    rng = random.Random(1)
    holds = [ZERO] * (BLOCKS + TRIMMED)
    journals = [Journal(folder, client) for client in range(1, CLIENTS + 1)]
    begins = [0.0] * CLIENTS
    for number in range(1, operations + 1):
        turn = number % CLIENTS
        now = float(number)
        block = rng.randrange(HOT if rng.random() < 0.5 else BLOCKS)
        if turn == 0 and rng.random() < 0.05:
            block = BLOCKS + rng.randrange(TRIMMED)
        verb = Verb.READ if rng.random() < 0.4 else Verb.WRITE
        if block >= BLOCKS and verb == Verb.WRITE and rng.random() < 0.5:
            verb, holds[block] = Verb.TRIM, ZERO
        elif verb == Verb.WRITE:
            holds[block] = value_of(turn + 1, number)
        # The effect is at `now`; the request was open from the client's turn before.
        record = Record(Kind.OK, verb, 1, block, holds[block], begins[turn], now + 0.5, 1, 1)
        if verb != Verb.READ:
            journals[turn].note(record._replace(kind=Kind.INVOKE))
        journals[turn].note(record)
        begins[turn] = now + 0.6
    for journal in journals:
        journal.close()


def main() -> None:
    """Print operations a second."""
    operations = int(sys.argv[1]) if len(sys.argv) > 1 else OPERATIONS
    with tempfile.TemporaryDirectory() as folder:
        _write_down(Path(folder), operations)
        began = time.process_time()
        found = collect(Path(folder))
        read = time.process_time()
        verdict = check(found.history)
        ended = time.process_time()
    print(verdict.words("speed"))
    for what, seconds in (("read", read - began), ("checked", ended - read)):
        print(f"{what}: {seconds:.2f} s of CPU, {operations / seconds:,.0f} operations/s")
    print(f"together: {operations / (ended - began):,.0f} operations/s")


if __name__ == "__main__":
    main()
