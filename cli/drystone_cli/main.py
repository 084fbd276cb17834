"""`drystone`: the root of the command tree, and the one place that turns errors into exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Final

from drystone_common.errors import DrystoneError, ExitCode

SIGNALLED: Final = 128  # how shells report an end by a signal


def run_command_line() -> None:
    """Run what the command line asks for.

    The daemons are started without the command tree: it costs a quarter of a second to import,
    and a local cluster starts many of them.
    """
    # gRPC tells of each failed handshake on stderr, in a form of its own between our lines of
    # JSON; we say it ourselves, once. It reads this when it is loaded, so before all else.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from drystone_cli import processes  # noqa: PLC0415 - see above

    if processes.run_directly(sys.argv[1:]):
        return
    from drystone_cli.app import app  # noqa: PLC0415 - see above
    from drystone_cli.kube import target  # noqa: PLC0415 - see above

    args = target.hoisted(sys.argv[0], sys.argv[1:])
    if target.meant(args):
        # Ended by a signal, it must still end the kubectl that it started.
        signal.signal(signal.SIGTERM, _end)
    app(args=args, prog_name=target.shown_name(sys.argv[0]))


def _end(number: int, _frame: object) -> None:
    sys.exit(SIGNALLED + number)


def main(run: Callable[[], object] = run_command_line) -> None:
    """Run a command line; a ``DrystoneError`` becomes its message, its hint and its exit code."""
    try:
        run()
    except DrystoneError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(int(error.exit_code))
    except KeyboardInterrupt:
        # 130: how shells report a program ended by SIGINT.
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`drystone … | head`): not a failure of ours.
        sys.stderr.close()
        sys.exit(int(ExitCode.OK))
