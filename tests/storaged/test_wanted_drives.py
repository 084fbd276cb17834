"""Drives that the manager asks for: a server and a manager together, files as devices."""

from __future__ import annotations

import asyncio

from drystone_storaged.proto import control_pb2
from drystone_storaged.server.settings import DriveSettings
from tests.storaged.fake_devices import FakeRunner
from tests.storaged.fake_native import FakeServerCore
from tests.storaged.manager_env import until
from tests.storaged.wanted_env import (
    add,
    blank,
    devices,
    folder,
    gone,
    is_now,
    running_server,
    seen_as,
    wanted,
)

__all__ = ["folder"]  # a fixture


async def test_a_blank_device_is_seen_asked_for_formatted_and_served(mgr, tmp_path, folder, port):
    path = folder / "a.img"
    device = blank(path)
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        await until(seen_as(mgr, path, "blank"), "the device")
        made = await add(mgr, path)
        assert (made["device"], made["slot"], made["node"]) == (device, 0, "node-1")
        await until(is_now(mgr, device, "up"), "the drive is up")
        shown = (await wanted(mgr))[device]
        assert shown["path"] == str(path)
        # At once, whatever the server saw at its last look at all devices.
        listed = (await devices(mgr))[str(path)]
        assert (listed["state"], listed["drive"]) == ("ours", shown["drive"])
        drive = (await mgr.http.get(f"/v1/drives/{shown['drive_id']}")).json()
        assert (drive["state"], drive["addr"]) == ("up", f"127.0.0.1:{port}")
        assert drive["uuid"] == shown["drive"]
        assert (drive["device"], drive["class"]) == (device, "file")
        assert server.core.opened[0]["slot"] == 63
        again = await add(mgr, device, status=200)
        assert again["state"] == "up"
        await until(seen_as(mgr, path, "ours"), "the device is ours")
        assert (await devices(mgr))[str(path)]["drive"] == shown["drive"]


async def test_a_pool_takes_drives_of_its_class_and_one_without_any_drive(
    mgr, tmp_path, folder, port
):
    device = blank(folder / "a.img")
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(seen_as(mgr, folder / "a.img", "blank"), "the device")
        await add(mgr, device)
        await until(is_now(mgr, device, "up"), "the drive is up")
        made = {}
        for name, kind in (("any", ""), ("files", "file"), ("fast", "nvme")):
            body = {"name": name, "copies": 1, "drive_class": kind}
            made[name] = (await mgr.http.post("/v1/pools", json=body)).status_code
        assert made == {"any": 201, "files": 201, "fast": 409}


async def test_power_loss_protection_reaches_the_drive_and_is_not_changed_by_accident(
    mgr, tmp_path, folder, port
):
    device = blank(folder / "a.img")
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        await until(seen_as(mgr, folder / "a.img", "blank"), "the device")
        await add(mgr, device, power_loss_protected=True)
        await until(is_now(mgr, device, "up"), "the drive is up")
        assert server.core.opened[0]["power_loss_protected"] is True
        refused = await add(mgr, device, status=409)
        assert refused["code"] == "drive_exists"


async def test_what_holds_data_is_refused_at_once_and_never_formatted(mgr, tmp_path, folder, port):
    path = folder / "a.img"
    path.write_text("somebody's letters")
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(seen_as(mgr, path, "foreign"), "the device")
        refused = await add(mgr, path, status=409)
        assert refused["code"] == "device_not_blank"
        assert "without a known signature" in refused["detail"]
    assert path.read_text() == "somebody's letters"


async def test_what_got_data_after_it_was_asked_for_is_refused_by_the_server(
    mgr, tmp_path, folder, port
):
    path = folder / "a.img"
    device = blank(path)
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(seen_as(mgr, path, "blank"), "the device")
    # Accepted on trust: nobody is there to look.
    await gone(mgr)
    assert (await add(mgr, device))["state"] == "pending"
    path.write_text("somebody's letters")
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(is_now(mgr, device, "refused", "drive_foreign"), "the refusal")

        async def told() -> bool:
            return any("drive_foreign" in issue for issue in (await mgr.status())["issues"])

        await until(told, "the issue")
        assert path.read_text() == "somebody's letters"
        # It is tried again by itself: wiped, it is taken.
        path.write_text("")
        await until(is_now(mgr, device, "up"), "the drive is up")


async def test_the_last_probe_before_the_format_decides(mgr, tmp_path, folder, port):
    path, runner = folder / "a.img", FakeRunner()
    device = blank(path)
    async with running_server(mgr, tmp_path / "s", folder, port, runner=runner):
        await until(seen_as(mgr, path, "blank"), "the device")
    await add(mgr, device)
    runner.signatures[str(path)] = "TYPE=xfs\nUSAGE=filesystem\n"
    async with running_server(mgr, tmp_path / "s", folder, port, runner=runner):
        await until(is_now(mgr, device, "refused", "drive_foreign"), "the refusal")
        assert "xfs file system" in (await wanted(mgr))[device]["reason"]
    assert not path.read_text()


async def test_a_restarted_server_serves_its_drives_again_in_their_slots(
    mgr, tmp_path, folder, port
):
    names = ("a.img", "b.img", "c.img")
    ids = [blank(folder / name) for name in names]
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(seen_as(mgr, folder / "c.img", "blank"), "the devices")
        for device in ids:
            await add(mgr, device)
        for device in ids:
            await until(is_now(mgr, device, "up"), "the drive is up")
        before = {d["device"]: (d["slot"], d["drive"]) for d in (await wanted(mgr)).values()}
        assert sorted(slot for slot, _ in before.values()) == [0, 1, 2]
    shown = (await mgr.http.get("/v1/drives")).json()["items"]
    assert {d["state"] for d in shown} == {"down"}
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        for device in ids:
            await until(is_now(mgr, device, "up"), "the drive is up again")
        after = {d["device"]: (d["slot"], d["drive"]) for d in (await wanted(mgr)).values()}
        assert after == before
        listens = {o["path"]: o["listen"] for o in server.core.opened}
        for device, (slot, _) in before.items():
            assert listens[device.removeprefix("file:")] == f"127.0.0.1:{port + slot}"


async def test_no_lease_rests_on_a_map_read_before_the_wanted_drives_are_known(
    mgr, tmp_path, folder, port
):
    device = blank(folder / "a.img")
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(seen_as(mgr, folder / "a.img", "blank"), "the device")
        await add(mgr, device)
        await until(is_now(mgr, device, "up"), "the drive is up")
    core = FakeServerCore()
    async with running_server(mgr, tmp_path / "s", folder, port, core=core):
        await until(lambda: any(began for _, began in core.maps), "a read that counts")
        assert core.opened, "the drive was opened before it"


async def test_a_drive_in_no_placement_group_is_taken_out_of_use_and_back(
    mgr, tmp_path, folder, port
):
    path = folder / "a.img"
    device = blank(path)
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        await until(seen_as(mgr, path, "blank"), "the device")
        await add(mgr, device)
        await until(is_now(mgr, device, "up"), "the drive is up")
        first = (await wanted(mgr))[device]
        answer = await mgr.http.delete(f"/v1/nodes/node-1/drives/{device}")
        assert answer.status_code == 204, answer.text
        await until(lambda: not server.core.open, "the drive is closed")
        await until(lambda: not server.drives, "it is forgotten by the server")
        assert await wanted(mgr) == {}
        (shown,) = (await mgr.http.get("/v1/drives")).json()["items"]
        assert (shown["state"], shown["reason"]) == ("down", "taken out of use")
        assert not any("drive 1" in issue for issue in (await mgr.status())["issues"])
        await until(seen_as(mgr, path, "ours"), "what is on it stays")
        # By its path this time.
        await add(mgr, path)
        await until(is_now(mgr, device, "up"), "the same drive is up again")
        assert (await wanted(mgr))[device]["drive"] == first["drive"]
        assert len((await mgr.http.get("/v1/drives")).json()["items"]) == 1


async def test_a_drive_that_a_placement_group_counts_on_stays(mgr, tmp_path, folder, port):
    path = folder / "a.img"
    device = blank(path)
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        await until(seen_as(mgr, path, "blank"), "the device")
        await add(mgr, device)
        await until(is_now(mgr, device, "up"), "the drive is up")
        body = {"name": "default", "copies": 1}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        answer = await mgr.http.delete(f"/v1/nodes/node-1/drives/{device}")
        assert (answer.status_code, answer.json()["code"]) == (409, "drive_holds_data")
        assert "drystone drive forget 1" in answer.json()["hint"]
        assert server.core.open
        # Two words of the manager later it is still served.
        await mgr.http.get("/v1/nodes/node-1/devices?look=true")
        assert (await wanted(mgr))[device]["state"] == "up"


async def test_a_failed_drive_is_forgotten_removed_wiped_and_taken_anew_while_the_server_runs(
    mgr, tmp_path, folder, port
):
    good, bad = blank(folder / "a.img"), blank(folder / "b.img")
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        await until(seen_as(mgr, folder / "b.img", "blank"), "the devices")
        for device in (good, bad):
            await add(mgr, device)
            await until(is_now(mgr, device, "up"), "the drive is up")
        body = {"name": "default", "copies": 2, "failure_domain": "drive"}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        number = (await wanted(mgr))[bad]["drive_id"]
        server.core.emit("drive_failed", drive=number, reason="I/O error")

        async def dropped() -> bool:
            shown = (await mgr.http.get(f"/v1/drives/{number}")).json()
            return shown["state"] == "down" and not shown["pgs"]["in_sync"]

        await until(dropped, "its groups do without it")
        refused = await mgr.http.delete(f"/v1/nodes/node-1/drives/{bad}")
        assert refused.json()["code"] == "drive_holds_data"
        assert "stop the server" not in refused.json()["hint"], "it is down already"
        assert (await mgr.http.delete(f"/v1/drives/{number}")).status_code == 204
        assert (await mgr.http.delete(f"/v1/nodes/node-1/drives/{bad}")).status_code == 204
        await until(lambda: len(server.drives) == 1, "it is closed")
        (folder / "b.img").write_text("")
        await add(mgr, bad)
        await until(is_now(mgr, bad, "up"), "a new drive is up")
        assert (await wanted(mgr))[bad]["drive_id"] not in (None, number)


async def test_a_device_that_failed_and_came_back_is_opened_again(mgr, tmp_path, folder, port):
    path = folder / "a.img"
    device = blank(path)
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        await until(seen_as(mgr, path, "blank"), "the device")
        await add(mgr, device)
        await until(is_now(mgr, device, "up"), "the drive is up")
        path.rename(tmp_path / "pulled")
        (number,) = server.core.open
        server.core.emit("drive_failed", drive=number, reason="I/O error")
        await until(is_now(mgr, device, "refused", "drive_failed"), "the failure")

        async def away() -> bool:
            return str(path) not in await devices(mgr)

        await until(away, "the device is away")
        (tmp_path / "pulled").rename(path)
        await until(is_now(mgr, device, "up"), "the drive is up again")
        assert len(server.core.opened) == 2
        assert [d.state.value for d in server.drives] == ["serving"]


async def test_a_device_that_failed_and_never_left_is_not_trusted_again(
    mgr, tmp_path, folder, port
):
    path = folder / "a.img"
    device = blank(path)
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        await until(seen_as(mgr, path, "blank"), "the device")
        await add(mgr, device)
        await until(is_now(mgr, device, "up"), "the drive is up")
        (number,) = server.core.open
        server.core.emit("drive_failed", drive=number, reason="I/O error")
        await until(is_now(mgr, device, "refused", "drive_failed"), "the failure")
        for _ in range(3):
            assert (await mgr.http.get("/v1/nodes/node-1/devices?look=true")).status_code == 200
        assert (await wanted(mgr))[device]["code"] == "drive_failed"
        assert len(server.core.opened) == 1


async def test_a_device_that_is_not_there_is_waited_for(mgr, tmp_path, folder, port):
    path = folder / "late.img"
    device = f"file:{path}"
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(lambda: mgr.services.devices.reports._devices, "the first report")
        missing = await add(mgr, device, status=404)
        assert missing["code"] == "device_not_found"
    await gone(mgr)
    await add(mgr, device)
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(is_now(mgr, device, "pending"), "it waits")

        async def reason() -> bool:
            return "no such device" in (await wanted(mgr))[device]["reason"]

        await until(reason, "it says what for")
        blank(path)
        await until(is_now(mgr, device, "up"), "the drive is up")


async def test_a_wanted_drive_whose_content_was_lost_is_not_formatted_again(
    mgr, tmp_path, folder, port
):
    path = folder / "a.img"
    device = blank(path)
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(seen_as(mgr, path, "blank"), "the device")
        await add(mgr, device)
        await until(is_now(mgr, device, "up"), "the drive is up")
    path.write_text("")
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(is_now(mgr, device, "refused", "drive_lost"), "the refusal")
    assert not path.read_text()


async def test_drives_of_the_settings_stay_and_cannot_be_asked_for(mgr, tmp_path, folder, port):
    path = folder / "mine.img"
    device = blank(path)
    mine = DriveSettings(path=str(path), listen=f"127.0.0.1:{port}", init=True)
    other = folder / "other.img"
    blank(other)
    async with running_server(mgr, tmp_path / "s", folder, port, drives=[mine]) as server:
        await until(seen_as(mgr, path, "ours"), "the device")
        assert (await devices(mgr))[str(path)]["configured"]
        refused = await add(mgr, device, status=409)
        assert refused["code"] == "device_in_use"
        await add(mgr, other)
        await until(is_now(mgr, f"file:{other}", "up"), "the other one")
        assert sorted(o["slot"] for o in server.core.opened) == [0, 63]


async def test_a_server_that_does_not_look_says_so(mgr, tmp_path, folder, port):
    device = blank(folder / "a.img")
    async with running_server(mgr, tmp_path / "s", folder, port, discover=False) as server:
        await until(lambda: mgr.services.devices.reports._devices, "its word")
        answer = (await mgr.http.get("/v1/nodes/node-1/devices?look=true")).json()
        assert (answer["connected"], answer["discovers"], answer["items"]) == (True, False, [])
        refused = await add(mgr, device, status=404)
        assert "drive_listen" in refused["hint"]
        assert not server.drives


async def test_a_drive_asked_for_while_its_server_is_away_and_then_off_is_refused_with_the_reason(
    mgr, tmp_path, folder, port
):
    device = blank(folder / "a.img")
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(lambda: mgr.services.devices.reports._devices, "its word")
    await gone(mgr)
    await add(mgr, device)
    async with running_server(mgr, tmp_path / "s", folder, port, drive_listen=""):
        await until(is_now(mgr, device, "refused", "discovery_off"), "the reason")


async def test_a_disk_that_two_nodes_see_is_served_by_one(mgr, tmp_path, folder, port):
    """Names of files are a machine's own; this takes the same WWN at both."""
    services = mgr.services
    async with (
        running_server(mgr, tmp_path / "s1", folder, port),
        running_server(mgr, tmp_path / "s2", tmp_path, port + 20, name="node-2"),
    ):
        await until(lambda: len(services.devices.reports._devices) == 2, "both servers")
        shared = control_pb2.Device(
            id="wwn:5000c500ab", path="/dev/sdx", size_bytes=1 << 40, device_class="hdd",
            state=control_pb2.DEVICE_STATE_BLANK,
        )  # fmt: skip
        told = control_pb2.Devices(discovers=True, devices=[shared])
        nodes = {n.name: n.uuid for n in await services.nodes.list("server")}

        async def add_at(name: str) -> int:
            services.devices.reports.report(nodes[name], told)
            body = {"device": "wwn:5000c500ab"}
            return (await mgr.http.post(f"/v1/nodes/{name}/drives", json=body)).status_code

        answers = await asyncio.gather(add_at("node-1"), add_at("node-2"))
        assert sorted(answers) == [201, 409]
        loser = ("node-1", "node-2")[answers.index(409)]
        services.devices.reports.report(nodes[loser], told)
        (shown,) = (await devices(mgr, loser)).values()
        assert shown["state"] == "used_elsewhere"
        refused = await add(mgr, "wwn:5000c500ab", node=loser, status=409)
        assert refused["code"] == "device_used_elsewhere"
