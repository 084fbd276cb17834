"""The server's Python side against a real manager; the native core is a stand-in."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from drystone_common.errors import DataError
from drystone_storaged.proto import control_pb2
from drystone_storaged.server import drive as keeper
from drystone_storaged.server import status
from drystone_storaged.server.settings import DriveSettings, ServerSettings
from tests.storaged.daemon_env import serving, token_file
from tests.storaged.fake_native import FakeServerCore, FakeTools
from tests.storaged.manager_env import until

GIB = 1 << 30


@contextlib.asynccontextmanager
async def running_server(mgr, folder: Path, drives, core=None, tools=None):
    """A server named node-1 with its state in ``folder``."""
    settings = ServerSettings(
        name="node-1",
        state_dir=str(folder / "state"),
        managers=[mgr.running.control],
        join_token_file=await token_file(mgr, folder, "server", "node-1"),
        drives=drives,
        beacon_listen="127.0.0.1:9",
    )
    async with serving(settings, core=core, tools=tools) as server:
        yield server


def drive(path: Path, port: int, **more) -> DriveSettings:
    return DriveSettings(path=str(path), listen=f"127.0.0.1:{port}", init=True, **more)


async def drives_of(mgr) -> list[dict]:
    return (await mgr.http.get("/v1/drives")).json()["items"]


async def up(mgr, count=1) -> bool:
    return sum(d["state"] == "up" for d in await drives_of(mgr)) >= count


async def test_a_blank_drive_is_formatted_opened_and_reported_ready(mgr, tmp_path, port):
    path = tmp_path / "1.img"
    async with running_server(mgr, tmp_path / "s", [drive(path, port, create_bytes=GIB)]) as server:
        await until(lambda: up(mgr), "the drive is up")
        shown = (await drives_of(mgr))[0]
        assert (shown["node"], shown["capacity"]) == ("node-1", GIB)
        assert list(server.core.open) == [shown["id"]]
        await until(lambda: "voters" in [kind for kind, _ in server.core.told], "voters")


async def test_a_restarted_server_opens_its_drive_under_a_new_nonce(mgr, tmp_path, port):
    drives = [drive(tmp_path / "1.img", port, create_bytes=GIB)]
    nonces = []
    for _ in range(2):
        async with running_server(mgr, tmp_path / "s", drives) as server:
            await until(lambda: up(mgr), "the drive is up")
            nonces.append(server.drives[0].nonce)
    shown = await drives_of(mgr)
    assert len(shown) == 1
    assert shown[0]["state"] == "down", "an orderly stop reports CLOSED"
    assert len(set(nonces)) == 2


ELSEWHERE = json.dumps(
    {"uuid": "1" * 8 + "-1111-1111-1111-" + "1" * 12, "nonce": 1, "incarnation": 1, "revision": 1,
     "cluster": "2" * 8 + "-2222-2222-2222-" + "2" * 12, "size": GIB}
)  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"), [("some text", "it holds text"), (ELSEWHERE, "belongs to cluster")]
)
async def test_a_drive_that_is_not_ours_is_refused_and_the_others_serve(
    mgr, tmp_path, port, content, reason
):
    bad, good = tmp_path / "bad.img", tmp_path / "good.img"
    bad.write_text(content)
    drives = [drive(bad, port), drive(good, port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: up(mgr), "the good drive is up")
        await until(lambda: reason in server.drives[0].reason, "the reason")
    assert bad.read_text() == content


async def test_a_suspect_drive_is_opened_as_blank_once_the_map_gives_it_no_credit(
    mgr, tmp_path, port
):
    core = FakeServerCore()
    core.suspect_opens = 1
    drives = [drive(tmp_path / "1.img", port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives, core=core) as server:
        await until(lambda: len(core.opened) > 1, "the second open")
        await until(lambda: up(mgr), "the drive is up")
        await until(lambda: not server.drives[0].suspect, "the end of the suspicion")
    assert core.opened[-1]["clear_suspect"]


async def test_a_drive_file_that_was_wiped_is_never_formatted_again(mgr, tmp_path, port):
    path = tmp_path / "1.img"
    drives = [drive(path, port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives):
        await until(lambda: up(mgr), "the drive is up")
    path.write_text("")
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: "was drive" in server.drives[0].reason, "the refusal")
    assert not path.read_text()


async def test_a_refused_drive_is_told_to_the_manager(mgr, tmp_path, port):
    path = tmp_path / "1.img"
    drives = [drive(path, port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives):
        await until(lambda: up(mgr), "the drive is up")
    path.write_text("")
    async with running_server(mgr, tmp_path / "s", drives):

        async def told() -> bool:
            issues = (await mgr.status())["issues"]
            return any("is refused by its server (drive_lost)" in issue for issue in issues)

        await until(told, "the refusal in the status")


@pytest.mark.parametrize("left", ["", None])
async def test_where_a_drive_was_forgotten_a_blank_file_becomes_a_new_one(
    mgr, tmp_path, port, left, monkeypatch
):
    # Only the map can wake it in time.
    monkeypatch.setattr(keeper, "RETRY_MIN_S", 300.0)
    monkeypatch.setattr(keeper, "RETRY_MAX_S", 300.0)
    path = tmp_path / "1.img"
    drives = [drive(path, port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives):
        await until(lambda: up(mgr), "the drive is up")
    path.unlink()
    if left is not None:
        path.write_text(left)
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: "was drive" in server.drives[0].reason, "the refusal")
        assert (await mgr.http.delete("/v1/drives/1")).status_code == 204
        await until(lambda: up(mgr), "the new drive is up")
    assert [(d["id"], d["state"]) for d in await drives_of(mgr)] == [(1, "gone"), (2, "down")]


async def test_the_data_of_a_forgotten_drive_is_neither_served_nor_formatted(mgr, tmp_path, port):
    path = tmp_path / "1.img"
    drives = [drive(path, port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives):
        await until(lambda: up(mgr), "the drive is up")
    content = path.read_text()
    assert (await mgr.http.delete("/v1/drives/1")).status_code == 204
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: server.drives[0].code == "drive_forgotten", "the refusal")
    assert path.read_text() == content


async def test_a_drive_in_use_is_tried_again_until_it_is_free(mgr, tmp_path, port):
    path = tmp_path / "1.img"
    tools = FakeTools()
    tools.in_use.add(str(path))
    drives = [drive(path, port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives, tools=tools) as server:
        await until(lambda: "another process" in server.drives[0].reason, "the refusal")
        tools.in_use.clear()
        await until(lambda: up(mgr), "the drive is up")


async def test_a_drive_that_fails_to_open_is_reported_with_its_reason(mgr, tmp_path, port):
    path = tmp_path / "1.img"
    core = FakeServerCore()
    core.fail_open[str(path)] = "a superblock is rotten"
    drives = [drive(path, port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives, core=core):

        async def reported() -> bool:
            found = await drives_of(mgr)
            return bool(found) and "a superblock is rotten" in (found[0]["reason"] or "")

        await until(reported, "the reason at the manager")


async def test_commands_of_the_manager_reach_the_drive_and_are_answered(mgr, tmp_path, port):
    drives = [drive(tmp_path / "1.img", port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: up(mgr), "the drive is up")
        body = {"name": "default", "copies": 1}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        volume = (await mgr.http.post("/v1/volumes", json={"name": "v", "size": GIB})).json()
        await until(lambda: server.maps.revision > 0 and server.core.maps, "a map")
        fence = control_pb2.Command(id=7, deadline_ms=5000)
        fence.fence.volume = int(volume["id"], 16)
        fence.fence.generation = 4
        fence.fence.drives.append(server.drives[0].number)
        answer = await server.commands.result(fence)
        assert [(d.drive, d.sealed_generation) for d in answer.drives] == [
            (server.drives[0].number, 4)
        ]
        shown = (await mgr.http.post(f"/v1/drives/{server.drives[0].number}/scrub")).json()

        async def scrubbed() -> bool:
            task = (await mgr.http.get(f"/v1/tasks/{shown['id']}")).json()
            return bool(task["state"] == "done" and task["message"] == said)

        said = "bad 7, healed 5, not healed 2"
        await until(scrubbed, "the scrub is done, with what it found")


async def test_a_drive_that_has_become_slow_is_told_to_the_manager_at_once(
    mgr, tmp_path, port, monkeypatch
):
    monkeypatch.setattr(status, "PERIOD_S", 3600.0)
    drives = [drive(tmp_path / "1.img", port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: up(mgr), "the drive is up")
        number = server.drives[0].number
        await until(lambda: mgr.services.stats.get(number), "its first figures")
        server.core.device = {"p99_us": 200_000, "ops": 6, "slow": True}
        server.core.emit("device_slow", drive=number, p99_us=200_000)
        await until(lambda: mgr.services.stats.get(number).ops == 6, "the figures of now")
        assert mgr.services.stats.get(number).p99_us == 200_000


async def test_a_fence_that_a_drive_refuses_is_answered_with_its_reason(mgr, tmp_path, port):
    drives = [drive(tmp_path / "1.img", port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: up(mgr), "the drive is up")
        body = {"name": "default", "copies": 1}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        volume = (await mgr.http.post("/v1/volumes", json={"name": "v", "size": GIB})).json()
        core = server.core

        def refuses(number: int, request_id: int, _request: str) -> None:
            core.emit("control_done", drive=number, id=request_id, ok=False, reason="sealed")

        core.control = refuses
        mgr.services.fence._proof_s = 0.3
        answer = await mgr.http.post(f"/v1/volumes/{volume['id']}/fence", json={"generation": 0})
        assert answer.status_code == 504, answer.text
        assert "did not confirm (drive 1: sealed)" in answer.json()["detail"]
        assert "cure what the drives say" in answer.json()["hint"]


async def test_a_drive_shown_down_that_does_well_is_reported_ready_again(mgr, tmp_path, port):
    drives = [drive(tmp_path / "1.img", port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: up(mgr), "the drive is up")
        number = server.drives[0].number
        state = await mgr.services.feed.read()
        await mgr.services.drives.set_down(
            {number: state.drive_revisions[number]}, "a test", ended=False
        )
        await until(lambda: up(mgr), "the drive is up again")


WRITE_FAILED = "a write to the drive failed"


def full(_path) -> str:
    return ": the file system of /d is full (ENOSPC): free space there"


async def test_a_drive_whose_engine_failed_is_down_with_the_reason_and_stays_so(
    mgr, tmp_path, port, monkeypatch
):
    monkeypatch.setattr(keeper, "why_failed", full)
    drives = [drive(tmp_path / "1.img", port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: up(mgr), "the drive is up")
        body = {"name": "default", "copies": 1}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        number = server.drives[0].number
        server.core.emit("report", what="drive_failed", drive=number, reason=WRITE_FAILED)

        async def critical() -> bool:
            status = await mgr.status()
            told = f"drive {number} on node-1 failed and answers nothing: {WRITE_FAILED}{full('')}"
            return status["health"] == "critical" and any(told in i for i in status["issues"])

        await until(critical, "the failure in the status")
        record = (await mgr.services.feed.read()).drives[number]
        await until(lambda: server.drives[0].state is keeper.DriveState.FAILED, "the state")
        assert record.ended, "recorded as failed, not only told"
        probe = control_pb2.Command(id=9, deadline_ms=5000)
        probe.probe.drive = number
        answer = await server.commands.result(probe)
        assert answer.code == "drive_failed"
        assert WRITE_FAILED in answer.message


async def test_a_drive_that_fails_before_it_serves_is_not_reported_ready(mgr, tmp_path, port):
    core = FakeServerCore()
    opened = core.open_drive

    def fails(config: str) -> None:
        opened(config)
        if len(core.opened) == 1:
            core.emit("report", what="drive_failed", drive=1, reason=WRITE_FAILED)

    core.open_drive = fails  # type: ignore[method-assign]  # the fake of this test
    drives = [drive(tmp_path / "1.img", port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives, core=core) as server:
        await until(lambda: len(core.opened) > 1, "a second open")
        await until(lambda: up(mgr), "the drive is up")
        assert server.drives[0].state is keeper.DriveState.SERVING


async def test_a_failure_is_told_until_a_manager_in_need_takes_it(mgr, tmp_path, port, monkeypatch):
    monkeypatch.setattr(keeper, "RETRY_MIN_S", 0.01)
    drives = [drive(tmp_path / "1.img", port, create_bytes=GIB)]
    async with running_server(mgr, tmp_path / "s", drives) as server:
        await until(lambda: up(mgr), "the drive is up")
        report = mgr.services.drives.report
        refused: list[tuple[object, ...]] = []

        async def in_need(_self, *args, **kwargs):
            if len(refused) < 2:
                refused.append(args)
                raise DataError("the store is not well")
            return await report(*args, **kwargs)

        monkeypatch.setattr(type(mgr.services.drives), "report", in_need)
        server.core.emit("report", what="drive_failed", drive=1, reason=WRITE_FAILED)

        async def recorded() -> bool:
            return (await mgr.services.feed.read()).drives[1].ended

        await until(recorded, "the record")
        assert len(refused) == 2


async def test_a_file_on_a_full_file_system_is_named_as_the_cause(tmp_path, monkeypatch):
    path = tmp_path / "1.img"
    path.touch()
    assert keeper.why_failed(path) == ""
    monkeypatch.setattr(keeper, "ROOM_MIN_BYTES", 1 << 62)
    assert "is full (ENOSPC): free space there, then restart" in keeper.why_failed(path)
    assert keeper.why_failed(Path("/dev/null")) == "", "a device has no file system"
