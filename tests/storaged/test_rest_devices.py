"""REST of devices: bad requests, roles, and whatever a server may report."""

from __future__ import annotations

import asyncio

import pytest

from drystone_storaged.manager.devices import DEVICES_MAX, DeviceReports
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import peers, until

BLANK = pb.Device(
    id="wwn:5", path="/dev/sdb", size_bytes=1 << 40, device_class="ssd", serial="S", model="QX",
    wwn="0x5", state=pb.DEVICE_STATE_BLANK,
)  # fmt: skip


@pytest.fixture
async def server(mgr):
    async with peers(mgr, 1, 1) as (peer, _client):
        yield peer


async def tell(mgr, server, *devices) -> None:
    await server.outbox.put(pb.SessionUp(devices=pb.Devices(discovers=True, devices=devices)))
    node = server.uuid.hex()
    reports = mgr.services.devices.reports
    await until(lambda: len((reports.of(node) or (0, ()))[1]) == len(devices), "the report")


async def pushed(server, revision_above: int = -1) -> pb.WantedDrives:
    def newest():
        found = [m.wanted for m in server.messages if m.WhichOneof("kind") == "wanted"]
        return found[-1] if found and found[-1].revision > revision_above else None

    await until(newest, "the wanted drives")
    return newest()


def problem(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


PATH = "/v1/nodes/node-1/drives"


async def test_a_session_begins_with_what_is_wanted_and_hears_every_change(mgr, server):
    first = await pushed(server)
    assert (list(first.drives), first.revision) == ([], 0)
    await tell(mgr, server, BLANK)
    answer = await mgr.http.post(PATH, json={"device": "/dev/sdb", "power_loss_protected": True})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body == {
        "device": "wwn:5", "node": "node-1", "slot": 0, "power_loss_protected": True,
        "path": "/dev/sdb", "drive": None, "drive_id": None, "state": "pending", "code": "",
        "reason": "",
    }  # fmt: skip
    after = await pushed(server, first.revision)
    assert [(d.device, d.slot, d.power_loss_protected) for d in after.drives] == [
        ("wwn:5", 0, True)
    ]
    assert (await mgr.http.delete(f"{PATH}/wwn:5")).status_code == 204
    assert list((await pushed(server, after.revision)).drives) == []
    assert problem(await mgr.http.delete(f"{PATH}/wwn:5")) == (404, "drive_not_found")


async def test_the_progress_of_a_wanted_drive_is_shown_in_both_lists(mgr, server):
    await tell(mgr, server, BLANK)
    await mgr.http.post(PATH, json={"device": "wwn:5"})
    state = pb.WantedState(
        device="wwn:5", phase=pb.WANTED_PHASE_REFUSED, code="drive_foreign", reason="not blank"
    )
    await server.outbox.put(pb.SessionUp(wanted=pb.WantedStates(drives=[state])))

    async def told() -> bool:
        return (await mgr.http.get(PATH)).json()["items"][0]["state"] == "refused"

    await until(told, "the state")
    shown = (await mgr.http.get("/v1/nodes/node-1/devices")).json()["items"][0]
    assert shown["wanted"] == {"state": "refused", "code": "drive_foreign", "reason": "not blank"}
    assert (shown["id"], shown["class"], shown["size_bytes"]) == ("wwn:5", "ssd", 1 << 40)
    await server.disconnect()

    async def pending() -> bool:
        return (await mgr.http.get(PATH)).json()["items"][0]["state"] == "pending"

    await until(pending, "what is not known any more")
    body = (await mgr.http.get("/v1/nodes/node-1/devices")).json()
    assert (body["connected"], body["items"]) == (False, [])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"state": pb.DEVICE_STATE_FOREIGN, "found": "ext4 file system"}, "device_not_blank"),
        ({"state": pb.DEVICE_STATE_IN_USE, "found": "mounted at /"}, "device_in_use"),
        ({"state": pb.DEVICE_STATE_UNSPECIFIED}, "device_not_blank"),
        ({"state": pb.DEVICE_STATE_OURS, "configured": True}, "device_in_use"),
    ],
)
async def test_a_device_that_may_not_be_used_is_refused_with_what_was_found(
    mgr, server, change, code
):
    device = pb.Device()
    device.CopyFrom(BLANK)
    for name, value in change.items():
        setattr(device, name, value)
    await tell(mgr, server, device)
    answer = await mgr.http.post(PATH, json={"device": "wwn:5"})
    assert problem(answer) == (409, code)
    assert change.get("found", "") in answer.json()["detail"]
    assert answer.json()["hint"]
    assert (await mgr.http.get(PATH)).json()["items"] == []


async def test_a_drive_that_serves_on_another_node_is_in_use_elsewhere(mgr, tmp_path):
    async with peers(mgr, 2, 0) as (one, two):
        device = pb.Device()
        device.CopyFrom(BLANK)
        device.state, device.drive = pb.DEVICE_STATE_OURS, two.uuid[::-1]
        await tell(mgr, one, device)
        (shown,) = (await mgr.http.get("/v1/nodes/node-1/devices")).json()["items"]
        assert (shown["state"], shown["found"]) == ("used_elsewhere", "drive 2 of node-2")
        answer = await mgr.http.post(PATH, json={"device": "wwn:5"})
        assert problem(answer) == (409, "device_used_elsewhere")


async def test_unknown_nodes_and_consuming_ones_have_no_devices(mgr, server):
    for name in ("nobody", "block-1"):
        for method, path in (("GET", "devices"), ("GET", "drives"), ("DELETE", "drives/wwn:5")):
            answer = await mgr.http.request(method, f"/v1/nodes/{name}/{path}")
            assert problem(answer) == (404, "node_not_found")
        answer = await mgr.http.post(f"/v1/nodes/{name}/drives", json={"device": "wwn:5"})
        assert problem(answer) == (404, "node_not_found")


@pytest.mark.parametrize(
    "body",
    [{}, {"device": ""}, {"device": 5}, {"device": "x" * 257}, [], {"device": "wwn:5", "size": 1},
     {"device": "wwn:5", "power_loss_protected": "yes"}, {"device": None}],
)  # fmt: skip
async def test_bad_bodies_are_refused(mgr, server, body):
    assert problem(await mgr.http.post(PATH, json=body)) == (400, "invalid_argument")


async def test_what_is_no_device_is_refused_before_and_after_a_report(mgr, server):
    answer = await mgr.http.post(PATH, json={"device": "/dev/sdb"})
    assert problem(answer) == (400, "invalid_id")
    assert "drystone node devices" in answer.json()["hint"]
    await tell(mgr, server, BLANK)
    for device in ("/dev/sdc", "wwn:6", "../x"):
        answer = await mgr.http.post(PATH, json={"device": device})
        assert problem(answer) == (404, "device_not_found")


async def test_only_an_administrator_takes_devices_into_use(mgr, server):
    for role in ("read", "operate"):
        headers = mgr.auth(role)
        answer = await mgr.http.post(PATH, json={"device": "wwn:5"}, headers=headers)
        assert problem(answer) == (403, "forbidden")
        assert problem(await mgr.http.delete(f"{PATH}/wwn:5", headers=headers)) == (
            403,
            "forbidden",
        )
        assert (await mgr.http.get(PATH, headers=headers)).status_code == 200
        assert (await mgr.http.get("/v1/nodes/node-1/devices", headers=headers)).status_code == 200


async def test_requests_at_the_same_time_for_one_device_make_one_drive(mgr, server):
    await tell(mgr, server, BLANK)
    body = {"device": "wwn:5"}
    answers = await asyncio.gather(*(mgr.http.post(PATH, json=body) for _ in range(6)))
    assert sorted(a.status_code for a in answers) == [200] * 5 + [201]
    assert len((await mgr.http.get(PATH)).json()["items"]) == 1


async def test_more_drives_than_a_node_may_have_are_refused(mgr, server):
    devices = [
        pb.Device(id=f"wwn:{n}", path=f"/dev/s{n}", state=pb.DEVICE_STATE_BLANK) for n in range(13)
    ]
    await tell(mgr, server, *devices)
    statuses = [(await mgr.http.post(PATH, json={"device": d.id})).status_code for d in devices]
    assert statuses == [201] * 12 + [507]


async def test_a_device_that_is_removed_may_go_to_another_node(mgr):
    async with peers(mgr, 2, 0) as (one, two):
        await tell(mgr, one, BLANK)
        await tell(mgr, two, BLANK)
        assert (await mgr.http.post(PATH, json={"device": "wwn:5"})).status_code == 201
        other = "/v1/nodes/node-2/drives"
        answer = await mgr.http.post(other, json={"device": "wwn:5"})
        assert problem(answer) == (409, "device_used_elsewhere")
        assert (await mgr.http.delete(f"{PATH}/wwn:5")).status_code == 204
        assert (await mgr.http.post(other, json={"device": "wwn:5"})).status_code == 201


async def test_a_look_is_the_servers_own(mgr, server):
    await tell(mgr, server)
    answer = await mgr.http.get("/v1/nodes/node-1/devices", params={"look": "true"})
    assert answer.status_code == 200
    assert [c.WhichOneof("kind") for c in server.commands] == ["look"]


def test_whatever_a_server_reports_is_bounded():
    reports = DeviceReports()
    mad = pb.Device(
        id="wwn:5", path="x" * 10_000, device_class="gold", drive=b"short",
        found="y" * 10_000,
    )  # fmt: skip
    mad.state = 99  # type: ignore[assignment]
    nameless = [pb.Device(id=""), pb.Device(id="z" * 1000)]
    reports.report("n", pb.Devices(discovers=True, devices=[mad, *nameless] + [BLANK] * 5000))
    _, devices = reports.of("n") or (False, ())
    assert len(devices) <= DEVICES_MAX
    first = devices[0]
    assert (first.state, first.drive, len(first.path), len(first.found)) == (
        "foreign",
        "",
        500,
        500,
    )
    states = [pb.WantedState(device=f"wwn:{n}", reason="r" * 9999) for n in range(5000)]
    states[0].phase = 77  # type: ignore[assignment]
    reports.report_wanted("n", pb.WantedStates(drives=states))
    reports.report("m", pb.Devices())
    assert len(reports._wanted["n"]) <= 12
    assert reports.progress("n", "wwn:0").state == "pending"
    assert len(reports.progress("n", "wwn:0").reason) == 500
    reports.clear()
    assert reports.of("m") is None
    assert reports.progress("n", "wwn:0").reason == ""
