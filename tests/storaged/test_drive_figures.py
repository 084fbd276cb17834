"""Figures of real native threads: every name that Python reads is one that the engine has."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from drystone_common.metrics import Metrics
from drystone_storaged.beacon.figures import BeaconFigures
from drystone_storaged.block.figures import ENGINE_NAMES
from drystone_storaged.server.figures import COUNTERS, DriveFigures
from tests.storaged.fake_native import BEACON_STATS, DRIVE_STATS, ENGINE_COUNTERS
from tests.storaged.manager_env import until

native = pytest.importorskip("drystone_native")
MASTER = bytes(range(32)).hex()
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0


def tree(value: Any) -> Any:
    """The names of a document, without its numbers."""
    if isinstance(value, dict):
        return {name: tree(inner) for name, inner in value.items()}
    return None


def event(core: Any, kind: str) -> dict[str, Any]:
    """Wait for one kind of news."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        for text in core.events():
            found: dict[str, Any] = json.loads(text)
            assert found["kind"] != "drive_failed", found
            if found["kind"] == kind:
                return found
        time.sleep(0.01)
    raise AssertionError(f"no {kind}")


@pytest.fixture
def server(tmp_path):
    """A server core with drive 7."""
    cluster = str(uuid.uuid4())
    path = str(tmp_path / "drive.img")
    spec = {"cluster": cluster, "uuid": str(uuid.uuid4()), "feature_level": 1,
            "create_bytes": 64 << 20, "segment_bytes": 1 << 20}  # fmt: skip
    native.format_drive(path, json.dumps(spec))
    config = {"cluster": cluster, "node": str(uuid.uuid4()), "incarnation": 1, "feature_level": 1,
              "masters": [[1, MASTER]], "key_epoch": 1}  # fmt: skip
    core = native.ServerCore(json.dumps(config))
    drive = {
        "drive": 7,
        "path": path,
        "nonce": 5,
        "revision": 1,
        "listen": "127.0.0.1:0",
        "slot": 0,
    }
    core.open_drive(json.dumps(drive))
    try:
        event(core, "drive_ready")
        yield core
    finally:
        core.stop()


def drive_stats(core: Any) -> dict[str, Any]:
    """Figures of drive 7; its thread may be late on a loaded machine."""
    end = time.monotonic() + DEADLINE_S
    while True:
        drives = json.loads(core.stats())["drives"]
        if drives:
            found: dict[str, Any] = drives["7"]
            return found
        assert time.monotonic() < end, "the drive never answers"


def test_the_figures_of_a_drive_have_the_names_that_the_tests_put_in_their_place(server):
    found = drive_stats(server)
    assert set(DRIVE_STATS["counters"]) <= set(found["counters"])
    assert {counter for _, _, counter in COUNTERS} <= set(found["counters"])
    mine, fake = dict(found), dict(DRIVE_STATS)
    del mine["counters"], fake["counters"]
    assert tree(mine) == tree(fake)


def test_an_exercise_answers_with_its_figures_and_shows_in_the_metrics(server):
    server.control(7, 1, '{"what": "exercise"}')
    done = event(server, "control_done")
    assert (done["id"], done["ok"], done["errors"]) == (1, True, 0)
    assert done["p99_us"] > 0
    found = drive_stats(server)
    assert found["device"]["ops"] > 0
    metrics = Metrics("server", "1")
    figures = DriveFigures()
    metrics.registry.register(figures)
    figures.take({7: found})
    text = metrics.render().decode()
    (line,) = re.findall(r'io_latency_seconds_count\{drive="7",operation="write"\} (\S+)', text)
    assert float(line) >= 64
    assert 'drystone_server_drive_segments{drive="7",state="open"}' in text


def test_the_figures_of_a_beacon_have_the_names_that_the_tests_put_in_their_place(tmp_path):
    core = native.BeaconCore(str(tmp_path), 9)
    config = {"node": str(uuid.uuid4()), "master": MASTER, "key_epoch": 1, "boot": 9,
              "listen": "127.0.0.1:0"}  # fmt: skip
    core.start(json.dumps(config))
    try:
        assert tree(json.loads(core.stats())) == tree(BEACON_STATS)
    finally:
        core.stop()
    with pytest.raises(native.NativeError, match="does not run"):
        core.stats()


def test_what_is_read_of_a_volume_is_counted_by_the_engine():
    source = (ROOT / "storaged/native/crates/sequencer/src/stats.rs").read_text()
    counted = set(re.findall(r"^    (\w+),$", source, re.MULTILINE))
    assert set(ENGINE_NAMES.values()) | {"stall_us"} | set(ENGINE_COUNTERS) <= counted


async def test_a_beacons_refusals_are_shown_by_reason():
    class Core:
        def stats(self) -> str:
            return json.dumps(BEACON_STATS)

    metrics = Metrics("beacon", "1")
    figures = BeaconFigures(Core())  # type: ignore[arg-type]
    metrics.registry.register(figures)
    task = asyncio.create_task(figures.run())
    wanted = 'drystone_beacon_datagrams_refused_total{reason="earlier_boot"} 3.0'
    try:
        await until(lambda: wanted in metrics.render().decode(), "the figures")
    finally:
        task.cancel()
    assert "drystone_beacon_lease_margin_seconds 1.2" in metrics.render().decode()


async def test_figures_that_the_beacons_thread_does_not_tell_are_said_to_be_old_once(capsys):
    looks: list[bool] = []

    class Core:
        def stats(self) -> str:
            looks.append(True)
            if len(looks) < 4:
                raise RuntimeError("the thread does not answer")
            return json.dumps(BEACON_STATS)

    metrics = Metrics("beacon", "1")
    figures = BeaconFigures(Core())  # type: ignore[arg-type]
    metrics.registry.register(figures)
    task = asyncio.create_task(figures.run())
    wanted = 'drystone_beacon_datagrams_refused_total{reason="earlier_boot"} 3.0'

    def well() -> bool:
        figures.scraped()
        return wanted in metrics.render().decode()

    try:
        await until(well, "the figures, once it answers again")
    finally:
        task.cancel()
    assert capsys.readouterr().out.count("figures_are_old") == 1
