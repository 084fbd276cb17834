"""`python -m tests.e2e.verify --seconds 60`: prints verified bytes and kills, fails on an error."""

from __future__ import annotations

import argparse
import sys

from tests.e2e.lib.cluster import CommandFailedError, temporary_cluster
from tests.e2e.lib.fio import FioFailedError
from tests.e2e.lib.stop import end_in_order
from tests.e2e.lib.waits import NotSeenError
from tests.e2e.verify.run import verify_under_kills

UP = ("--servers", "3", "--drive-size", "4G")


def main() -> int:
    """Run it."""
    end_in_order()
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.verify", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kills", type=int, default=5, help="at least so many")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running at the end")
    args = parser.parse_args()
    print(f"fio verifies for {args.seconds:.0f} s over at least {args.kills} kills", flush=True)
    try:
        with temporary_cluster("verify", *UP, keep=args.keep) as cluster:
            seen = verify_under_kills(cluster, args.seconds, args.kills)
    except (FioFailedError, NotSeenError, CommandFailedError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(
        f"verified {seen.verified_bytes} bytes of {seen.written_bytes} written, "
        f"{seen.kills} kills, no error"
    )
    return 0 if seen.verified_bytes > 0 and seen.kills >= args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
