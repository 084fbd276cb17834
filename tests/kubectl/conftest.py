"""A Kubernetes in this process, a kubectl that reaches it, and command lines against both."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from drystone_cli.app import app
from drystone_cli.kube import target
from tests.kubectl import fake_kubectl
from tests.kubectl.cluster import NAMESPACE, CliKube, api, storage_cluster, tokens_secret


class World:
    """What a test arranges and looks at."""

    def __init__(self, folder: Path, address: str) -> None:
        self.kube = CliKube()
        self.folder = folder
        self.world: dict[str, Any] = {
            "api": address, "namespace": NAMESPACE, "pods": {}, "exec": {},
            "log": str(folder / "kubectl.log"),
        }  # fmt: skip

    def write(self) -> None:
        (self.folder / "world.json").write_text(json.dumps(self.world))

    def pod_answers(self, name: str, address: str) -> None:
        """Where a port-forward to a pod ends."""
        self.world["pods"][f"{NAMESPACE}/{name}"] = address
        self.write()

    def pod_prints(self, name: str, text: str) -> None:
        """What a program in a pod prints."""
        file = self.folder / f"{name}.out"
        file.write_text(text)
        self.world["exec"][f"{NAMESPACE}/{name}"] = str(file)
        self.write()

    def called(self) -> list[list[str]]:
        """Command lines of kubectl."""
        file = self.folder / "kubectl.log"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def running(self) -> list[int]:
        """Processes of kubectl that live."""
        pids = [int(f.name) for f in (self.folder / "pids").iterdir()]
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    def run(self, *argv: str) -> Result:
        """Run a command line of the plugin."""
        words = target.hoisted("kubectl-drystone", list(argv))
        return CliRunner().invoke(app, words, catch_exceptions=True)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A StorageCluster with its Secret; no pods yet."""
    made = World(tmp_path, "")
    with api(made.kube) as address:
        made.world["api"] = address
        made.write()
        (tmp_path / "pids").mkdir()
        program = tmp_path / "bin" / "kubectl"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -S -E "{fake_kubectl.__file__}" "$@"\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        monkeypatch.setenv("FAKE_KUBE", str(tmp_path / "world.json"))
        monkeypatch.delenv("DRYSTONE_TOKEN_FILE", raising=False)
        monkeypatch.delenv("DRYSTONE_CA_FILE", raising=False)
        made.kube.put("storageclusters", storage_cluster())
        made.kube.put("secrets", tokens_secret())
        try:
            yield made
        finally:
            target.choose(None)
