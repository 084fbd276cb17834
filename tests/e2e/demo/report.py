"""What the demonstration prints: numbered steps, a line for each result, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

NAME_WIDTH: Final = 52


class FailedCheckError(Exception):
    """A check of content, or a promised state, does not hold."""


def mib(count: float) -> str:
    """Bytes for people."""
    return f"{count / (1 << 20):.1f} MiB"


def seconds(count: float) -> str:
    """A time for people."""
    return f"{count * 1000:.0f} ms" if count < 1 else f"{count:.1f} s"


class Report:
    """Prints as it goes and keeps what belongs into the table."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str]] = []
        self._steps = 0
        self._began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Number a part of the demonstration and print how long it took."""
        self._steps += 1
        began = time.monotonic()
        print(f"\n[{self._steps}] {title}", flush=True)
        yield
        print(f"    ({seconds(time.monotonic() - began)})", flush=True)

    def line(self, text: str) -> None:
        """One result or one explanation."""
        print(f"    {text}", flush=True)

    def figure(self, name: str, value: str) -> None:
        """Print a figure now, and again in the table."""
        self._rows.append((name, value))
        self.line(f"{name}: {value}")

    def check(self, what: str, *, holds: bool, detail: str = "") -> None:
        """Print that it holds, or end the demonstration."""
        if not holds:
            raise FailedCheckError(f"{what}{': ' if detail else ''}{detail}")
        self.line(f"ok: {what}{', ' if detail else ''}{detail}")

    def table(self) -> None:
        """Print every figure."""
        print("\n" + "-" * (NAME_WIDTH + 34))
        for name, value in self._rows:
            print(f"{name:{NAME_WIDTH}} {value}")
        print(f"{'whole demonstration':{NAME_WIDTH}} {seconds(time.monotonic() - self._began)}")
        print("-" * (NAME_WIDTH + 34), flush=True)
