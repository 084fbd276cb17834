"""Judge kept journals again: ``python -m tests.e2e.nemesis.rejudge FOLDER…``, one a volume."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.e2e.nemesis.check import Verdict, check
from tests.e2e.nemesis.collect import Collected, collect


def judge(folder: Path) -> tuple[Collected, Verdict]:
    """What the journals of one volume tell, and whether it can be true."""
    found = collect(folder)
    return found, check(found.history)


def main() -> int:
    """Print a verdict of each; 1 when any is not clean."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.nemesis.rejudge", description=__doc__
    )
    parser.add_argument(
        "folder", nargs="+", type=Path, help="journals of one volume: FOLDER/journals/v1"
    )
    folders: list[Path] = parser.parse_args().folder
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        parser.error(f"no such folder: {', '.join(missing)}")
    verdicts = {folder: judge(folder)[1] for folder in folders}
    for folder, verdict in verdicts.items():
        print(verdict.words(folder.name))
    return 0 if all(verdict.clean for verdict in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
