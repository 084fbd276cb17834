"""What a run is asked to do, and which laps that are."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

from tests.e2e.nemesis.settings import SIZES
from tests.e2e.nemesis.special import LAPS, NEEDED, ORDERED, SHORT
from tests.e2e.nemesis.testbuild import missing, there

MINUTES: Final = 10.0
QUIET: Final = "quiet"
ONCE: Final = ("quiet", "long-stop", "resync")  # each takes long, and says no more the second time


@dataclass(frozen=True, slots=True)
class Options:
    """All of it. ``laps``: exactly these, in this order; without ``seconds`` once."""

    seed: int = 1
    servers: int = 3
    seconds: float | None = None
    laps: tuple[str, ...] = ()
    short: bool = False
    keep: Path | None = None
    faulty: bool = False
    """There are servers whose drives fail on order, and this run uses them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a run."""
    parser.add_argument("--minutes", type=float, help=f"how long (default {MINUTES:g})")
    parser.add_argument("--seconds", type=float, help="the same in seconds")
    parser.add_argument("--seed", type=int, default=1, help="decides which lap hits whom, and when")
    parser.add_argument("--servers", type=int, choices=SIZES, default=SIZES[0])
    parser.add_argument("--laps", help=f"only these, in this order: {', '.join(LAPS)}")
    parser.add_argument("--short", action="store_true", help="one of each that gates a change")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="go on in this folder, leave it")


def parse(found: argparse.Namespace) -> Options:
    """Options from the command line; ValueError says what is wrong."""
    laps = tuple(word.strip() for word in (found.laps or "").split(",") if word.strip())
    unknown = [name for name in laps if name not in LAPS]
    if unknown:
        raise ValueError(f"no such lap: {', '.join(unknown)}; there are {', '.join(LAPS)}")
    seconds = found.minutes * 60 if found.minutes is not None else found.seconds
    if seconds is not None and seconds <= 0:
        raise ValueError("a run lasts longer than nothing")
    if seconds is None and not laps and not found.short:
        seconds = MINUTES * 60
    keep = found.keep.absolute() if found.keep else None
    faulty = there() and not found.short and (not laps or any(name in ORDERED for name in laps))
    if any(name in ORDERED for name in laps) and not faulty:
        raise ValueError(missing(ORDERED))
    return Options(found.seed, found.servers, seconds, laps, found.short, keep, faulty)


def order(options: Options) -> Iterator[str]:
    """Laps in the order in which they are played; without an end where only time ends it.

    How long requests take without a fault is asked first, for others are judged by it.
    """
    chosen = SHORT if options.short and not options.laps else options.laps
    if chosen:
        yield from chosen if chosen[0] == QUIET else (QUIET, *chosen)
        if options.seconds is not None and not options.short:
            yield from cycle(chosen)
        return
    chance = random.Random(f"order/{options.seed}/{options.servers}")
    yield QUIET
    yield from _shuffled(chance, NEEDED)
    possible = [name for name in LAPS if options.faulty or name not in ORDERED]
    yield from _shuffled(chance, [name for name in possible if name not in {*NEEDED, QUIET}])
    again = [name for name in possible if name not in ONCE]
    while True:
        yield from _shuffled(chance, again)


def needed(options: Options) -> tuple[str, ...]:
    """Kinds of laps that must have been judged."""
    if options.short and not options.laps:
        return SHORT
    return options.laps or NEEDED


def _shuffled(chance: random.Random, names: Sequence[str]) -> list[str]:
    return chance.sample(list(names), len(names))
