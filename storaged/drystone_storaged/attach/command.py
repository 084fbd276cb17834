"""Running the system's tools: argument lists, a deadline each, typed errors.

Tests put another ``Runner`` in the place of the system's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from drystone_common.errors import DeadlineError, DrystoneError

OUTPUT_CHARS_MAX: Final = 500
"""Of a failed tool's last words, that many go into the error: they end in an event of a pod."""

KILL_WAIT_S: Final = 5.0
"""A killed tool that is still there after this waits in the kernel for a device; it is left
behind, because waiting for it would hang the call and its lock."""


class CommandError(DrystoneError):
    """A tool failed in a way that its caller did not expect."""

    kind = "failed"
    default_code = "command_failed"


@dataclass(frozen=True, slots=True)
class Completed:
    """How a tool ended."""

    code: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """Runs a tool to its end."""

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, codes: Sequence[int] = (0,)
    ) -> Completed:
        """Give the result if the exit code is one of ``codes``, else raise CommandError."""
        ...


class SystemRunner:
    """Runs real tools, in the C locale, with nothing on standard input."""

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, codes: Sequence[int] = (0,)
    ) -> Completed:
        """See ``Runner``. The tool is killed when the time is up or the caller is cancelled."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            raise CommandError(
                f"{argv[0]} cannot be started: {error.strerror}",
                code="command_missing",
                hint=f"install the package that has {argv[0]}",
            ) from error
        try:
            async with asyncio.timeout(timeout_s):
                stdout, stderr = await process.communicate()
        except TimeoutError as error:
            await _kill(process)
            raise DeadlineError(f"{argv[0]} did not end in {timeout_s:.0f} s") from error
        except asyncio.CancelledError:
            await _kill(process)
            raise
        result = Completed(
            process.returncode if process.returncode is not None else -1,
            stdout.decode(errors="replace"),
            stderr.decode(errors="replace"),
        )
        return expect(argv, result, codes)


def expect(argv: Sequence[str], result: Completed, codes: Sequence[int]) -> Completed:
    """Raise CommandError unless the tool ended with one of the codes."""
    if result.code in codes:
        return result
    words = (result.stderr.strip() or result.stdout.strip())[-OUTPUT_CHARS_MAX:]
    raise CommandError(
        f"{argv[0]} ended with {result.code}: {words or 'it said nothing'}",
        details={"command": " ".join(argv)[:OUTPUT_CHARS_MAX], "exit_code": result.code},
    )


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.kill()
    try:
        async with asyncio.timeout(KILL_WAIT_S):
            await process.wait()
    except TimeoutError:
        return
