"""A Kubernetes API server with its etcd and nothing else, where the lab's programs are built."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

START_S = 90.0  # on a busy machine; alone it takes five
STOP_S = 20.0

Json = dict[str, Any]


def programs() -> tuple[str, str]:
    """Paths of etcd and kube-apiserver; skips where `make kube-e2e` has not built them yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    usual = (Path(base) if base else Path.home() / ".cache") / "drystone" / "kube"
    folder = Path(os.environ.get("DRYSTONE_KUBE_CACHE", usual)) / "bin"
    found = [shutil.which(name, path=folder) for name in ("etcd", "kube-apiserver")]
    if found[0] is None or found[1] is None:
        pytest.skip(f"etcd and kube-apiserver are not in {folder}; `make kube-e2e` builds them")
    return found[0], found[1]


@dataclass(slots=True)
class Api:
    """The API server, as an administrator."""

    url: str
    token: str = field(repr=False)

    def call(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        """Ask once. Its certificate is of its own making, on loopback."""
        return httpx.request(
            method,
            f"{self.url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.token}"},
            verify=False,  # noqa: S501 - see above
            timeout=20,
        )

    def wait(self, path: str, what: str) -> None:
        """Wait until a path answers 200."""
        deadline = time.monotonic() + START_S
        last = ""
        while time.monotonic() < deadline:
            try:
                answer = self.call("GET", path)
            except httpx.HTTPError as error:
                last = str(error)
            else:
                if answer.status_code == httpx.codes.OK:
                    return
                last = answer.text[:500]
            time.sleep(0.1)
        raise AssertionError(f"{what} is not there after {START_S} s: {last}")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Api]:
    """Start both, and end both whatever happens."""
    etcd, server = programs()
    client, peer, port = free_ports(3)
    token = secrets.token_hex(16)
    (folder / "tokens").write_text(f"{token},admin,admin,system:masters\n")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "accounts.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(process(folder, etcd_words(etcd, folder, client, peer)))
        stack.enter_context(process(folder, server_words(server, folder, client, port)))
        api = Api(f"https://127.0.0.1:{port}", token)
        api.wait("/readyz", "the API server")
        yield api


def etcd_words(program: str, folder: Path, client: int, peer: int) -> list[str]:
    here, there = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    return [
        program,
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={here}",
        f"--advertise-client-urls={here}",
        f"--listen-peer-urls={there}",
        f"--initial-advertise-peer-urls={there}",
        f"--initial-cluster=default={there}",
        "--log-level=error",
    ]


def server_words(program: str, folder: Path, etcd: int, port: int) -> list[str]:
    key = folder / "accounts.key"
    return [
        program,
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        f"--token-auth-file={folder / 'tokens'}",
        "--authorization-mode=AlwaysAllow",
        "--disable-admission-plugins=ServiceAccount",
        "--service-cluster-ip-range=10.96.0.0/24",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
    ]


@contextlib.contextmanager
def process(folder: Path, words: list[str]) -> Iterator[None]:
    """Run a program with its output in a file."""
    with (folder / f"{Path(words[0]).name}.log").open("wb") as log:
        child = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(STOP_S)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
