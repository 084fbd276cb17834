"""Breaks a real cluster on purpose for a while, and judges what its clients saw.

python -m tests.e2e.nemesis --minutes 10 --seed 7   a run; its last line is `N passed, M failed`
python -m tests.e2e.nemesis --short                 what gates a change
python -m tests.e2e.nemesis down                    take away what a run left that was killed
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.e2e.lib.shell import LabError, Steps
from tests.e2e.lib.stop import end_in_order
from tests.e2e.lib.waits import NotSeenError
from tests.e2e.nemesis import lifecycle, options, program
from tests.e2e.nemesis.publish import publish
from tests.e2e.nemesis.settings import from_environment


def main() -> int:
    """Run one command; the exit code says whether it worked."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.nemesis", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", nargs="?", choices=("down",), help="end what a run left")
    parser.add_argument(
        "--publish", type=Path, nargs="+", metavar="FILE", help="figures of runs into the docs"
    )
    options.add_arguments(parser)
    arguments = parser.parse_args()
    try:
        chosen = options.parse(arguments)
    except ValueError as error:
        parser.error(str(error))
    end_in_order()
    try:
        if arguments.command == "down":
            lifecycle.down(from_environment().folder)
            Steps().say("down")
            return 0
        if arguments.publish:
            publish(arguments.publish)
            return 0
        report = program.play(chosen, Steps())
    except (LabError, NotSeenError) as error:
        print(f"error: {error}", file=sys.stderr)
        if arguments.command is None and not arguments.publish:
            print("0 passed, 1 failed")
        return 1
    report.show()
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
