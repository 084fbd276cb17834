"""`kubectl` as a subprocess: whoever may use the cluster with it may use it with us.

It knows every way to authenticate. Objects are read through its proxy, on a unix socket that only
this user can open; REST of a manager through its port-forward.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import httpx

from drystone_cli.kube.api import Kube
from drystone_cli.kube.target import Target
from drystone_common.errors import (
    DeadlineError,
    DeniedError,
    DrystoneError,
    NotFoundError,
    UnavailableError,
)
from drystone_storaged.agent.bounded import too_large

READY_S: Final = 20.0
"""Until a proxy or a port-forward says that it stands: kubectl first reads the kubeconfig, may run
a program for credentials, and asks the API server."""

REQUEST_S: Final = 30.0  # as kubectl's own requests of whole lists on a slow API server
END_S: Final = 2.0  # kubectl ends at once; one that hangs is killed
LINE_BYTES_MAX: Final = 4096
OUTPUT_BYTES_MAX: Final = 16 << 20  # what is asked for is a word, or what a look at one node found
ERRORS_BYTES_MAX: Final = 1 << 16  # of which a tail is shown
TAIL_BYTES: Final = 2000  # of what it complained about

_SERVING: Final = re.compile(rb"Starting to serve on")
_FORWARDING: Final = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+) ->")


class Kubectl:
    """Calls with one context and namespace."""

    def __init__(self, target: Target, program: str = "kubectl") -> None:
        context = [f"--context={target.context}"] if target.context else []
        self._base: Final = [program, *context]

    def namespace(self) -> str:
        """The namespace of the context."""
        jsonpath = "--output=jsonpath={..namespace}"
        return self.run(["config", "view", "--minify", jsonpath]).strip() or "default"

    def exec(self, place: tuple[str, str, str], argv: Sequence[str], timeout_s: float) -> str:
        """Run a program in a container (namespace, pod, container); gives its standard output.

        What the program's exit code is does not matter as long as it printed something.
        """
        namespace, pod, container = place
        head = ["exec", "--namespace", namespace, pod, "--container", container, "--"]
        return self.run([*head, *argv], timeout_s=timeout_s, any_code=True)

    def run(
        self, argv: Sequence[str], *, timeout_s: float = REQUEST_S, any_code: bool = False
    ) -> str:
        """Run to the end; gives standard output."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            try:
                done = subprocess.run(
                    [*self._base, *argv],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=errors, timeout=timeout_s,
                    check=False,
                )  # fmt: skip
            except FileNotFoundError as error:
                raise _missing(self._base[0]) from error
            except subprocess.TimeoutExpired as error:
                raise DeadlineError(
                    f"kubectl {argv[0]} did not end in {timeout_s:.0f} s",
                    hint="see that the API server and the node's kubelet answer",
                ) from error
            said = _head(output, OUTPUT_BYTES_MAX + 1)
            if len(said) > OUTPUT_BYTES_MAX:
                raise too_large(f"the output of kubectl {argv[0]}", OUTPUT_BYTES_MAX)
            if done.returncode and not (any_code and said.strip()):
                raise complaint(argv[0], _head(errors, ERRORS_BYTES_MAX))
        return said.decode(errors="replace")

    @contextmanager
    def proxy(self) -> Iterator[Kube]:
        """The API of Kubernetes, with the rights that kubectl has."""
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="drystone-"))
            socket = Path(folder) / "api"  # the folder is this user's only
            argv = ["proxy", f"--unix-socket={socket}"]
            stack.enter_context(self._standing(argv, _SERVING, "proxy"))
            transport = httpx.HTTPTransport(uds=str(socket))
            client = httpx.Client(
                transport=transport, base_url="http://localhost", timeout=REQUEST_S, trust_env=False
            )
            yield Kube(stack.enter_context(client))

    @contextmanager
    def forward(self, namespace: str, pod: str, port: int) -> Iterator[int]:
        """A port of a pod on this machine's loopback."""
        argv = ["port-forward", "--namespace", namespace, "--address=127.0.0.1"]
        argv += [f"pod/{pod}", f":{port}"]
        with self._standing(argv, _FORWARDING, "port-forward") as match:
            yield int(match.group(1))

    @contextmanager
    def _standing(
        self, argv: Sequence[str], ready: re.Pattern[bytes], what: str
    ) -> Iterator[re.Match[bytes]]:
        """A kubectl that runs beside us, from its first word to the end of the block."""
        with tempfile.TemporaryFile() as errors:
            try:
                child = subprocess.Popen(
                    [*self._base, *argv],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                )  # fmt: skip
            except FileNotFoundError as error:
                raise _missing(self._base[0]) from error
            try:
                match = _first_line(child, ready)
                if match is None:
                    raise complaint(what, _head(errors, ERRORS_BYTES_MAX))
                # port-forward says a line for each connection: a full pipe would stop it.
                threading.Thread(target=_drain, args=(child.stdout,), daemon=True).start()
                yield match
            finally:
                _end(child)


def _first_line(child: subprocess.Popen[bytes], ready: re.Pattern[bytes]) -> re.Match[bytes] | None:
    """Wait until it says that it stands; None = it ended, or says something else for too long."""
    if child.stdout is None:
        return None
    until = time.monotonic() + READY_S
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while (left := until - time.monotonic()) > 0 and len(said) < LINE_BYTES_MAX:
            if not selector.select(left):
                break
            piece = os.read(child.stdout.fileno(), LINE_BYTES_MAX)
            if not piece:
                return None
            said += piece
            match = ready.search(said)
            if match:
                return match
    return None


def _head(file: IO[bytes], bytes_max: int) -> bytes:
    file.seek(0)
    return file.read(bytes_max)


def _drain(stream: IO[bytes] | None) -> None:
    with suppress(OSError, ValueError):  # ValueError: it was closed
        while stream is not None and os.read(stream.fileno(), LINE_BYTES_MAX):
            pass


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _missing(program: str) -> NotFoundError:
    return NotFoundError(
        f"the program {program} is not there",
        code="no_kubectl",
        hint="install it: it knows how to reach the cluster",
    )


def complaint(what: str, stderr: bytes) -> DrystoneError:
    """A typed error for what kubectl said."""
    text = stderr[-TAIL_BYTES:].decode(errors="replace").strip() or "it said nothing"
    kinds: dict[str, type[DrystoneError]] = {
        "(Forbidden)": DeniedError,
        "(Unauthorized)": DeniedError,
        "must be logged in": DeniedError,
        "(NotFound)": NotFoundError,
        "does not exist": NotFoundError,
    }
    kind = next((kind for word, kind in kinds.items() if word in text), UnavailableError)
    return kind(
        f"kubectl {what}: {text}",
        code="kubectl_failed",
        hint="try `kubectl get pods` with the same context and namespace",
    )
