"""Programs that the build starts: shown, bounded in time, with their last words on failure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
LAST_LINES: Final = 20
TIMEOUT_S: Final = 3600.0  # the native package on two busy CPUs, with a margin


class BuildError(Exception):
    """The image cannot be built; the message says what to do."""


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """Run a program to its end and give what it wrote to standard output."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise BuildError(f"{words[0]} is not installed: run 'make setup'") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{words[0]} did not end in {timeout_s:.0f} s") from error
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-LAST_LINES:])
        raise BuildError(f"{' '.join(words)[:300]}\nended with {done.returncode}:\n{last}")
    return done.stdout


def say(text: str) -> None:
    """Progress, for people."""
    print(f"== {text}", file=sys.stderr, flush=True)
