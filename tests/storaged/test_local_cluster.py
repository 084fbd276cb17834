"""A whole cluster of real processes on this machine: killed, healed, restarted, removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

DEADLINE_S = 90.0
"""For what takes seconds; a loaded CI machine is ten times slower than a quiet one."""

pytestmark = [
    pytest.mark.timeout(420),
    pytest.mark.skipif(shutil.which("nbdcopy") is None, reason="nbdcopy is missing: libnbd-bin"),
]


class Cluster:
    """The command line on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "DRYSTONE_DIR": str(folder)}

    def __call__(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "drystone_cli", *argv],
            env=self.env, text=True, capture_output=True, timeout=240, check=False,
        )  # fmt: skip
        assert not check or result.returncode == 0, f"{argv}: {result.stdout}{result.stderr}"
        return result

    def json(self, *argv: str) -> Any:
        return json.loads(self(*argv, "-o", "json").stdout)

    def until(self, condition, what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {what}\n{self('status').stdout}"
            time.sleep(0.2)

    def in_sync(self) -> bool:
        pgs = self.json("status")["pgs"]
        return pgs["total"] > 0 and pgs["in_sync"] == pgs["total"]

    def pids(self) -> dict[str, int]:
        return {p["name"]: p["pid"] for p in self.json("local", "status")["processes"]}

    def log(self, process: str) -> list[dict[str, Any]]:
        text = (self.folder / "log" / f"{process}.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def figure(self, name: str) -> float:
        """Sum of a metric over the volumes of the first block daemon."""
        endpoints = json.loads((self.folder / "cluster.json").read_text())["endpoints"]
        answer = httpx.get(endpoints["metrics"]["block-1"], trust_env=False)
        found = re.findall(rf"^drystone_volume_{name}{{.*}} (\S+)$", answer.text, re.MULTILINE)
        return sum(map(float, found))

    def clean(self) -> None:
        """Whatever happened, nothing of it stays."""
        for pid_file in (self.folder / "run").glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(pid_file.read_text())
                if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGCONT)
        self("local", "destroy", "--force", check=False)


@pytest.fixture
def cluster(tmp_path):
    found = Cluster(tmp_path / "c")
    try:
        yield found
    finally:
        found.clean()


def ours(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes()
            if str(folder).encode() in command and int(path.parent.name) != os.getpid():
                found.append(command.replace(b"\0", b" ").decode())
    return found


def copy(*argv: str) -> None:
    result = subprocess.run(
        ["nbdcopy", *argv], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr


def every_copy_holds(cluster: Cluster, content: bytes, folder: Path) -> None:
    """All drives hold the same, block for block, and it is this; a look changes nothing."""
    images = sorted(cluster.folder.glob("drives/*/*.img"))
    seen, wanted = [], {}
    for n in range(len(content) // 4096):
        block = content[n * 4096 : n * 4096 + 4096]
        wanted[(f"{n // 1024:016x}", f"{n % 1024:03x}")] = hashlib.sha256(block).hexdigest()
    for image in images:
        stamp = image.stat().st_mtime_ns
        lines = folder / f"{image.parent.name}.blocks"
        shown = cluster.json("drive", "inspect", str(image), "--out", str(lines))
        seen.append(shown["blocks"]["pgs"])
        assert [shown["blocks"][k] for k in ("bad", "rotten", "unproven", "unread")] == [0] * 4
        assert shown["suspect"] is None
        assert {v["sealed_generation"] for v in shown["volumes"]} == {2}
        rows = [line.split() for line in lines.read_text().splitlines()]
        assert {(r[3], r[4]): r[9] for r in rows if r[6] == "data"} == wanted
        assert image.stat().st_mtime_ns == stamp
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]


def test_acknowledged_data_outlives_a_killed_server_and_then_everything(cluster, tmp_path):
    size = 32 << 20
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(size))
    cluster("local", "up", "--drive-size", "4Gi")
    assert cluster.in_sync()
    cluster("volume", "create", "db", "--size", str(size))
    attached = cluster.json("volume", "attach", "db", "--as", "export")
    assert (attached["volume"], attached["node"], attached["device"]) == ("db", "block-1", None)
    uri = attached["nbd_uri"]

    # A writer that goes on while one of three servers dies.
    with subprocess.Popen(["nbdcopy", "--flush", str(source), uri]) as writer:
        cluster("local", "stop", "node-2", "--signal", "KILL")
        assert writer.wait(timeout=DEADLINE_S) == 0
    copy("--flush", str(source), uri)
    cluster("local", "start", "node-2")
    cluster.until(cluster.in_sync, "all placement groups in sync")
    written = 2 * size  # by both copies; nothing of random data is trimmed
    cluster.until(lambda: cluster.figure("written_bytes_total") >= written, "the figures")

    for pid in cluster.pids().values():
        os.kill(pid, signal.SIGKILL)
    cluster("local", "up")
    again = cluster.json("volume", "attach", "db", "--as", "export")
    assert again["generation"] > attached["generation"]
    copy(again["nbd_uri"], str(back))
    assert back.read_bytes() == source.read_bytes()

    cluster("local", "down")
    every_copy_holds(cluster, source.read_bytes(), tmp_path)
    cluster("local", "up")
    for node in ("node-1", "node-2", "node-3"):
        failed = {"drive_failed", "invariant_broken", "engine_report", "close_not_reported"}
        bad = [e for e in cluster.log(f"{node}-server") if e["event"] in failed]
        assert not bad, "closing the log is no failure of the drive"
    opened = [e for e in cluster.log("node-1-server") if e["event"] == "drive_open"]
    assert opened[-1]["replayed_bytes"] < size // 4, "a clean stop leaves a checkpoint"
    third = cluster.json("volume", "attach", "db", "--as", "export")
    copy(third["nbd_uri"], str(back))
    assert back.read_bytes() == source.read_bytes()
    cluster.until(lambda: cluster.figure("read_bytes_total") >= size, "the figures of the reads")
    assert cluster.figure("errors_total") == cluster.figure("in_flight_requests") == 0
    assert cluster.figure("read_latency_seconds_count") == cluster.figure("reads_total") > 0

    cluster("local", "destroy")
    assert not cluster.folder.exists()
    assert not ours(cluster.folder)


def test_a_frozen_consumer_is_fenced_and_up_is_idempotent(cluster, tmp_path):
    cluster("local", "up", "--servers", "1", "--consumers", "2", "--drive-size", "4Gi")
    before = cluster.pids()
    cluster("local", "up")
    assert cluster.pids() == before, "what runs is left alone"

    cluster("volume", "create", "db", "--size", "16Mi")
    first = cluster.json("volume", "attach", "db", "--as", "export")
    ones, twos = tmp_path / "ones", tmp_path / "twos"
    ones.write_bytes(b"1" * (16 << 20))
    twos.write_bytes(b"2" * (16 << 20))
    cluster("local", "stop", "block-1", "--signal", "STOP")
    cluster("volume", "detach", "db", "--force")
    second = cluster.json("volume", "attach", "db", "--node", "block-2", "--as", "export")
    assert second["generation"] > first["generation"]
    copy("--flush", str(twos), second["nbd_uri"])
    cluster("local", "stop", "block-1", "--signal", "CONT")
    late = subprocess.run(
        ["nbdcopy", str(ones), first["nbd_uri"]], capture_output=True, timeout=60, check=False
    )
    assert late.returncode != 0, "a fenced consumer's writes are refused"
    back = tmp_path / "back"
    copy(second["nbd_uri"], str(back))
    assert back.read_bytes() == twos.read_bytes()

    assert cluster("volume", "delete", "db", check=False).returncode == 4, "it is in use"
    cluster("volume", "detach", "db")
    cluster("volume", "delete", "db")
    assert cluster("volume", "show", "db", check=False).returncode == 3
    cluster("local", "down")
    assert not ours(cluster.folder)
