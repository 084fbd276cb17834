"""What runs in the machine: the attacher's tests, then a cluster whose daemons are replaced."""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from drystone_common.errors import DrystoneError
from tests.e2e.kernel.restarts import FailedCheckError, Figure, replace_daemons
from tests.e2e.lib.cluster import CommandFailedError, temporary_cluster
from tests.e2e.lib.waits import NotSeenError

TESTS: Final = "tests/csi/test_nbd_attacher.py"
PARTS: Final = ("attacher", "restarts")
UP: Final = ("--servers", "3", "--drive-size", "2Gi", "--consumers", "1")


def main() -> int:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.kernel.guest", description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS)
    parts = parser.parse_args().parts
    print(f"Linux {platform.release()}", flush=True)
    if not Path("/sys/module/nbd").exists():
        print("FAILED: this kernel has no nbd either", file=sys.stderr)
        return 1
    failed = [name for name in parts if not {"attacher": attacher, "restarts": restarts}[name]()]
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def attacher() -> bool:
    """The tests that need the driver. One that is skipped here has been tested nowhere."""
    print(f"== {TESTS}", flush=True)
    argv = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", TESTS]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    return done.returncode == 0 and all_ran(done.stdout)


def all_ran(output: str) -> bool:
    """Whether pytest's last line tells of tests that passed and none that did not run."""
    summary = output.rstrip().rpartition("\n")[2]
    return "passed" in summary and not re.search(r"skipped|deselected|xfailed", summary)


def restarts() -> bool:
    """A cluster of this checkout with volumes on NBD devices."""
    print("== a cluster whose block daemon and CSI plugin are replaced under load", flush=True)
    try:
        with temporary_cluster("kernel", *UP) as cluster:
            figures = replace_daemons(cluster, UP)
    except (
        FailedCheckError, NotSeenError, CommandFailedError, DrystoneError, OSError, ValueError
    ) as error:  # fmt: skip
        print(f"FAILED: {error}", file=sys.stderr)
        return False
    print(table(figures), flush=True)
    return True


def table(figures: list[Figure]) -> str:
    """One line a figure."""
    return "\n".join(f"{figure.name}: {figure.value}" for figure in figures)


if __name__ == "__main__":
    sys.exit(main())
