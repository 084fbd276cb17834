"""Real etcd members on loopback, for tests: started, killed, frozen, brought back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from drystone_common.errors import NotFoundError
from drystone_storaged.local.etcd import etcd_program

UP_S: Final = 30.0


def etcd_binary() -> str:
    """The etcd server's program; the test is skipped where there is none, and fails in CI."""
    try:
        return etcd_program()
    except NotFoundError as error:
        if os.environ.get("CI", "") not in ("", "0", "false"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def openssl(folder: Path, *words: str) -> None:
    """Make keys and certificates in a folder."""
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Etcd:
    """A cluster of members; its files are below ``folder``."""

    def __init__(self, folder: Path, members: int = 1, extra: Sequence[str] = ()) -> None:
        self._folder = folder
        self._extra = list(extra)
        self._scheme = "https" if any(word.startswith("--cert-file") for word in extra) else "http"
        self._ports = [(free_port(), free_port()) for _ in range(members)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{client}" for client, _ in self._ports)

    def start(self, *numbers: int) -> None:
        """Start these members, or all."""
        for number in numbers or range(len(self._ports)):
            self._processes[number] = self._spawn(number)
        for number in numbers or range(len(self._ports)):
            self._wait_for_port(number)

    def signal(self, number: int, what: signal.Signals) -> None:
        self._processes[number].send_signal(what)

    def kill(self, *numbers: int) -> None:
        """SIGKILL these members, or all."""
        for number in numbers or list(self._processes):
            process = self._processes.pop(number)
            process.kill()
            process.wait(timeout=UP_S)

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        client, peer = self._ports[number]
        cluster = ",".join(
            f"m{i}=http://127.0.0.1:{port}" for i, (_, port) in enumerate(self._ports)
        )
        argv = [
            etcd_binary(), "--name", f"m{number}", "--data-dir", str(self._folder / f"m{number}"),
            "--listen-client-urls", f"{self._scheme}://127.0.0.1:{client}",
            "--advertise-client-urls", f"{self._scheme}://127.0.0.1:{client}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-cluster", cluster, "--initial-cluster-token", "drystone-test",
            # Elections in half a second; no flush: nobody pulls the plug of a test.
            "--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync",
            "--log-level", "error", *self._extra,
        ]  # fmt: skip
        with (self._folder / f"m{number}.log").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def _wait_for_port(self, number: int) -> None:
        end = time.monotonic() + UP_S
        while time.monotonic() < end:
            if self._processes[number].poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._ports[number][0])) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self._folder / f"m{number}.log").read_text()[-2000:])
