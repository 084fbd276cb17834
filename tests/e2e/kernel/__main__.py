"""`python -m tests.e2e.kernel`: what needs a kernel with NBD, in a machine that has one.

Boots it, runs ``tests.e2e.kernel.guest`` in it (or the command after ``--``) and takes it away.
Exit status: the command's; 1 when the machine did not do it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.e2e.kernel.machine import MachineError, Plan, prepare, run
from tests.e2e.lib.stop import end_in_order

ROOT: Final = Path(__file__).resolve().parents[3]
GUEST: Final = "tests.e2e.kernel.guest"
LIMIT_S: Final = 1500.0
"""All of it takes some seven minutes where nothing else runs; a busy machine may need twice."""
MEMORY_MIB: Final = 3072  # three servers, the other daemons and what is written to the overlay
DISK_GIB: Final = 8  # sparse; the drives of the cluster and files of tests


def arguments(words: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="scripts/kernel.sh", description=__doc__)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for everything")
    parser.add_argument("--memory", type=int, default=MEMORY_MIB, help="MiB of the machine")
    parser.add_argument("--keep", action="store_true", help="leave its messages and disk")
    parser.add_argument("command", nargs="*", help="another command, as root in the machine")
    return parser.parse_args(words)


def main() -> int:
    """Run it."""
    end_in_order()
    args = arguments(sys.argv[1:])
    command = tuple(args.command) or (sys.executable, "-m", GUEST)
    state = Path(tempfile.mkdtemp(prefix="drystone-kernel-"))
    plan = Plan(state, ROOT, command, args.limit, args.memory, DISK_GIB)
    began = time.monotonic()
    try:
        prepare(plan, os.environ)
        status = run(plan)
    except MachineError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        if args.keep:
            print(f"kept: {state}")
        else:
            shutil.rmtree(state, ignore_errors=True)
    print(f"exit status {status} after {time.monotonic() - began:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
