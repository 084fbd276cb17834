from __future__ import annotations

import pytest

from drystone_common.errors import DrystoneError
from drystone_storaged.manager.app import check_listen
from drystone_storaged.manager.settings import ManagerSettings
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import GIB, manager, peers


@pytest.fixture
async def ready(mgr):
    async with peers(mgr, 3, 2):
        yield mgr


def check_problem(answer, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] == code
    assert body["status"] == status
    assert {"type", "title", "detail"} <= body.keys()


async def test_without_a_token_everything_is_refused(mgr):
    for method, path in (
        ("GET", "/v1/volumes"),
        ("GET", "/v1/health"),
        ("POST", "/v1/volumes"),
        ("DELETE", "/v1/nodes/x"),
        ("POST", "/v1/join-tokens"),
    ):
        for header in ({"Authorization": ""}, {"Authorization": "Bearer wrong"},
                       {"Authorization": "Basic x"}):  # fmt: skip
            answer = await mgr.http.request(method, path, headers=header)
            check_problem(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_roles_are_kept_apart(mgr):
    read, operate = mgr.auth("read"), mgr.auth("operate")
    body = {"name": "v", "size": GIB}
    check_problem(await mgr.http.post("/v1/volumes", json=body, headers=read), 403, "forbidden")
    token = {"role": "server"}
    answer = await mgr.http.post("/v1/join-tokens", json=token, headers=operate)
    check_problem(answer, 403, "forbidden")
    assert (await mgr.http.get("/v1/status", headers=read)).status_code == 200


async def test_cluster_and_health_answer(mgr):
    body = (await mgr.http.get("/v1/cluster")).json()
    assert len(body["uuid"]) == 36
    assert "version" in body
    assert (await mgr.http.get("/v1/health")).json()["status"] == "ok"


async def test_the_life_of_a_volume(ready):
    http = ready.http
    spec = {"name": "v", "size": GIB, "attributes": {"csi.name": "pvc"}}
    made = await http.post("/v1/volumes", json=spec)
    assert made.status_code == 201
    volume = made.json()
    assert volume["content"] == {"state": "never"}
    assert (volume["generation"], volume["used"], volume["pool"]) == (0, None, "default")
    again = await http.post("/v1/volumes", json=spec)
    assert (again.status_code, again.json()["id"]) == (200, volume["id"])
    by_id = (await http.get(f"/v1/volumes/{volume['id']}")).json()
    assert by_id["name"] == "v"
    assert by_id["pgs"]["total"] == 64
    grown = await http.patch("/v1/volumes/v", json={"size": 2 * GIB})
    assert grown.json()["size"] == 2 * GIB
    check_problem(await http.patch("/v1/volumes/v", json={"size": GIB}), 409, "size_shrink")
    assert (await http.delete("/v1/volumes/v")).status_code == 204
    check_problem(await http.delete("/v1/volumes/v"), 404, "volume_not_found")


async def test_a_create_that_differs_is_a_conflict(ready):
    spec = {"name": "v", "size": GIB}
    await ready.http.post("/v1/volumes", json=spec)
    for change in ({"size": 2 * GIB}, {"attributes": {"a": "b"}}):
        answer = await ready.http.post("/v1/volumes", json=spec | change)
        check_problem(answer, 409, "volume_exists")


async def test_publication_rules(ready):
    http = ready.http
    await http.post("/v1/volumes", json={"name": "v", "size": GIB})
    path = "/v1/volumes/v/publish"
    for _ in range(2):
        answer = await http.post(path, json={"node": "block-1", "mode": "rw"})
        assert answer.json() == {"node": "block-1", "mode": "rw"}
    check_problem(
        await http.post(path, json={"node": "block-2", "mode": "rw"}),
        409, "volume_published_elsewhere",
    )  # fmt: skip
    check_problem(
        await http.post(path, json={"node": "block-1", "mode": "ro"}), 409, "volume_mode_conflict"
    )
    check_problem(await http.post(path, json={"node": "nobody"}), 404, "node_not_found")
    check_problem(await http.post("/v1/volumes/x/publish", json={"node": "block-1"}), 404,
                  "volume_not_found")  # fmt: skip
    check_problem(await http.delete("/v1/volumes/v"), 409, "volume_in_use")
    for body in ({"node": "block-1"}, {}, None):
        assert (await http.post("/v1/volumes/v/unpublish", json=body)).status_code == 200
    check_problem(await http.post("/v1/volumes/x/unpublish", json={}), 404, "volume_not_found")


async def test_content_is_compare_and_set(ready):
    http = ready.http
    await http.post("/v1/volumes", json={"name": "v", "size": GIB})
    path = "/v1/volumes/v/content"
    never, mine = {"state": "never"}, {"state": "formatting", "fs": "ext4", "nonce": "n"}
    answer = await http.post(path, json={"expect": never, "to": mine})
    assert answer.json()["content"] == mine
    check_problem(
        await http.post(path, json={"expect": never, "to": {"state": "raw"}}),
        409, "content_conflict",
    )  # fmt: skip
    check_problem(
        await http.post(path, json={"expect": mine, "to": {"state": "fs"}}), 400, "invalid_content"
    )


async def test_lists_are_paged_and_survive_a_deleted_cursor(ready):
    http = ready.http
    for i in range(5):
        await http.post("/v1/volumes", json={"name": f"v{i}", "size": GIB})
    page = (await http.get("/v1/volumes", params={"limit": 2})).json()
    assert [v["name"] for v in page["items"]] == ["v0", "v1"]
    await http.delete("/v1/volumes/v1")
    params = {"limit": 10, "cursor": page["next_cursor"]}
    rest = (await http.get("/v1/volumes", params=params)).json()
    assert [v["name"] for v in rest["items"]] == ["v2", "v3", "v4"]
    assert rest["next_cursor"] is None
    for bad in ("x", "AAAA", "ä", "=" * 64):
        answer = await http.get("/v1/volumes", params={"cursor": bad})
        check_problem(answer, 400, "invalid_cursor")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_argument"),
        ({"name": "v"}, 400, "invalid_argument"),
        ({"name": 5, "size": GIB}, 400, "invalid_argument"),
        ({"name": "v", "size": "1G"}, 400, "invalid_argument"),
        ({"name": "v", "size": 1.5}, 400, "invalid_argument"),
        ({"name": "v", "size": True}, 400, "invalid_argument"),
        ({"name": "v", "size": GIB, "colour": "red"}, 400, "invalid_argument"),
        ({"name": "V!", "size": GIB}, 400, "invalid_name"),
        ({"name": "v" * 64, "size": GIB}, 400, "invalid_name"),
        ({"name": "v", "size": 1000}, 422, "size_out_of_range"),
        ({"name": "v", "size": 10**30}, 422, "size_out_of_range"),
        ({"name": "v", "size": -4096}, 422, "size_out_of_range"),
        ({"name": "v", "size": GIB, "pool": "nope"}, 404, "pool_not_found"),
        ({"name": "v", "size": GIB, "attributes": {"k": "x" * 1025}}, 400, "invalid_attributes"),
        ({"name": "v", "size": GIB, "attributes": {str(i): "" for i in range(17)}}, 400,
         "invalid_argument"),
        ([], 400, "invalid_argument"),
        ("text", 400, "invalid_argument"),
    ],
)  # fmt: skip
async def test_bad_bodies_are_refused_with_a_reason(ready, body, status, code):
    check_problem(await ready.http.post("/v1/volumes", json=body), status, code)


async def test_what_is_no_json_or_too_large_is_refused(mgr):
    post = mgr.http.post
    headers = {"content-type": "application/json"}
    for raw in (b"{", b"\xff\xfe", b"[" * 30_000, b'{"name": "\\ud800", "size": 4096}'):
        answer = await post("/v1/volumes", content=raw, headers=headers)
        assert 400 <= answer.status_code < 500, answer.text
    answer = await post("/v1/volumes", content=b" " * 100_000, headers=headers)
    check_problem(answer, 413, "body_too_large")

    async def endless():
        for _ in range(100):
            yield b" " * 4096

    check_problem(await post("/v1/volumes", content=endless(), headers=headers), 413,
                  "body_too_large")  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "/v1/volumes/" + "x" * 5000,
        "/v1/volumes/%00",
        "/v1/volumes/..%2f..%2fetc",
        "/v1/nodes/%C3%A4",
        "/v1/nodes/" + "y" * 600,
        "/v1/pools/%0a",
        "/v1/drives/99999999999999999999",
        "/v1/drives/abc",
        "/v1/tasks/5",
        "/v1/nothing",
    ],
)
async def test_strange_paths_are_not_found(mgr, path):
    answer = await mgr.http.get(path)
    assert answer.status_code == 404, answer.text
    assert answer.json()["code"].endswith("not_found")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=" + "9" * 400, "cursor=" + "a" * 65]
)
async def test_strange_queries_are_refused(mgr, query):
    check_problem(await mgr.http.get(f"/v1/volumes?{query}"), 400, "invalid_argument")


async def test_a_pool_without_drives_says_what_to_do(mgr):
    answer = await mgr.http.post("/v1/pools", json={"name": "p", "copies": 3})
    check_problem(answer, 409, "no_drives")
    assert "start storage servers" in answer.json()["hint"]


@pytest.mark.parametrize(
    "change", [{"copies": 0}, {"copies": 99}, {"min_insync": 4}, {"pg_count": 3},
               {"failure_domain": "moon"}],
)  # fmt: skip
async def test_impossible_pools_are_refused(mgr, change):
    body = {"name": "p", "copies": 3} | change
    assert (await mgr.http.post("/v1/pools", json=body)).status_code == 400


async def test_status_has_the_published_shape(ready):
    body = await ready.status()
    assert body["health"] == "ok", body
    assert body["pgs"] == {
        "total": 64, "in_sync": 64, "degraded": 0, "resyncing": 0, "stalled": 0, "unavailable": 0,
    }  # fmt: skip
    assert body["resync"]["bytes_left"] == 0
    assert {n["name"] for n in body["nodes"]} == {
        "node-1", "node-2", "node-3", "block-1", "block-2",
    }  # fmt: skip
    assert [d["id"] for d in body["drives"]] == [1, 2, 3]


async def test_a_pool_shows_its_space_in_bytes_of_volumes(ready):
    body = (await ready.http.get("/v1/pools/default")).json()
    assert body["capacity"] == body["available"] > 0
    # Three copies on three drives of 8 GiB, less the reserve.
    assert body["capacity"] <= 8 * GIB
    figures = pb.DriveStatus(drive=1, capacity_bytes=8 * GIB, reserved_bytes=GIB)
    ready.services.stats.report(figures)
    body = (await ready.http.get("/v1/pools/default")).json()
    assert body["used"] == 0, "what a drive keeps for cleaning is no data"
    assert body["available"] < body["capacity"]
    figures.used_bytes = GIB
    ready.services.stats.report(figures)
    assert (await ready.http.get("/v1/pools/default")).json()["used"] > 0
    assert len((await ready.http.get("/v1/map", params={"pool": "default"})).json()["pgs"]) == 64


async def test_a_scrub_is_a_task_that_ends(ready):
    from tests.storaged.manager_env import until

    answer = await ready.http.post("/v1/drives/1/scrub")
    assert answer.status_code == 202
    number = answer.json()["id"]

    async def done():
        return (await ready.http.get(f"/v1/tasks/{number}")).json()["state"] == "done"

    await until(done, "the scrub")


async def test_a_node_in_use_is_not_forgotten_and_a_gone_client_is(ready):
    http = ready.http
    check_problem(await http.delete("/v1/nodes/node-1"), 409, "node_in_use")
    check_problem(await http.delete("/v1/nodes/block-1"), 409, "node_in_use")
    check_problem(await http.delete("/v1/nodes/nobody"), 404, "node_not_found")


async def test_mark_lost_needs_a_loss(ready):
    path = "/v1/pools/default/mark-lost"
    check_problem(
        await ready.http.post(path, json={"pg": 0, "confirm": False}), 400, "invalid_argument"
    )
    check_problem(
        await ready.http.post(path, json={"pg": 64, "confirm": True}), 404, "pg_not_found"
    )
    answer = await ready.http.post(path, json={"pg": 0, "confirm": True})
    check_problem(answer, 409, "pg_not_lost")


async def test_what_is_impossible_or_missing_is_told_with_the_next_step(ready):
    answer = await ready.http.post("/v1/pools", json={"name": "none", "copies": 0})
    assert answer.json()["code"] == "invalid_copies"
    assert "1 to 4" in answer.json()["hint"]
    body = {"pg": 8000, "confirm": True}
    missing = (await ready.http.post("/v1/pools/default/mark-lost", json=body)).json()
    assert missing["code"] == "pg_not_found"
    assert "default/8000" in missing["detail"]
    assert "drystone map" in missing["hint"]


async def test_every_problem_names_its_kind(mgr):
    assert (await mgr.http.get("/v1/volumes/none")).json()["kind"] == "not_found"


async def test_openapi_describes_the_api(mgr):
    body = (await mgr.http.get("/openapi.json")).json()
    assert "/v1/volumes/{which}/unpublish" in body["paths"]


@pytest.mark.parametrize(
    ("listen", "insecure", "code"),
    [
        ("0.0.0.0:8460", False, "insecure_listen"),
        ("example.org:8460", False, "insecure_listen"),
        ("nonsense", False, "invalid_listen"),
        ("127.0.0.1:99999", False, "invalid_listen"),
        ("0.0.0.0:8460", True, None),
        ("[::1]:8460", False, None),
        ("localhost:8460", False, None),
    ],
)
def test_only_loopback_is_listened_on_without_tls(tmp_path, listen, insecure, code):
    settings = ManagerSettings(state_dir=tmp_path, rest_listen=listen, insecure_listen=insecure)
    if code is None:
        check_listen(settings)
        return
    with pytest.raises(DrystoneError) as caught:
        check_listen(settings)
    assert caught.value.code == code


async def test_a_port_in_use_and_a_second_manager_are_typed_errors(tmp_path, mgr):
    port = mgr.running.rest.rpartition(":")[2]
    with pytest.raises(DrystoneError) as caught:
        async with manager(tmp_path / "m"):
            pass
    assert caught.value.code == "store_locked"
    settings = ManagerSettings(
        state_dir=tmp_path / "n", rest_listen=f"127.0.0.1:{port}", control_listen="127.0.0.1:0"
    )
    from drystone_storaged.manager.app import running

    with pytest.raises(DrystoneError) as caught:
        async with running(settings):
            pass
    assert caught.value.code == "listen_failed"


async def test_a_lost_master_key_is_not_replaced(tmp_path):
    async with manager(tmp_path / "m"):
        pass
    (tmp_path / "m" / "master.key").unlink()
    with pytest.raises(DrystoneError) as caught:
        async with manager(tmp_path / "m"):
            pass
    assert caught.value.code == "master_missing"
