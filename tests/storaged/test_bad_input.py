"""A real cluster under load, and everybody who does not belong to it.

Each is refused, the live endpoint counts it, a line of the log says why in words, and at the end
every block that was acknowledged is there.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import drystone_native
from drystone_storaged.block.records import Records
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.etcd_client import EtcdConfig
from drystone_storaged.cluster.store import Delete, Put
from drystone_storaged.cluster.store_etcd import EtcdStore
from drystone_storaged.proto import control_pb2 as pb
from tests.e2e.lib.cluster import temporary_cluster
from tests.e2e.lib.waits import wait_for
from tests.e2e.lib.writer import Region, Writer, verify
from tests.storaged.bad_input_env import (
    DEADLINE_S,
    WELCOME,
    Heartbeat,
    World,
    code_of,
    exchange,
    pick,
    recorded,
    role_key,
    verdict,
)
from tests.storaged.etcd_server import etcd_binary

pytestmark = pytest.mark.timeout(600)

OTHER_MASTER = bytes(range(32))
SLOTS = 512
DATAGRAMS = "drystone_beacon_datagrams_refused_total"
CONNECTIONS = "drystone_server_drive_connections_refused_total"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Three servers, two consumers, records in etcd, and a writer that never stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRYSTONE_ETCD", etcd_binary())
        options = ("--consumers", "2", "--metadata", "etcd", "--managers", "1")
        with temporary_cluster("bad", *options) as made:
            made.cli("volume", "create", "db", "--size", "64Mi")
            device = made.attach("db", "block-1", "export")
            found = World(made)
            found.writer = Writer(Region(device["nbd_uri"], 0, SLOTS, 7), threads=2)
            yield found
            found.channel.close()


@pytest.fixture(autouse=True)
def load_goes_on(world: World) -> Iterator[None]:
    """Whatever a test does, the writer is served before and after it, without one error."""
    yield
    if not world.report:
        world.writer.goes_on(20, DEADLINE_S)
        assert world.writer.errors == 0


# -- beacons ------------------------------------------------------------------------------------


def shoot(world: World, node: str, *datagrams: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gun:
        for datagram in datagrams:
            gun.sendto(datagram, world.beacon(node))


def heard_no(world: World, reason: str, before: float, count: int = 1) -> None:
    """The beacon of node-1 refused that many for this reason, and said so."""
    world.becomes(
        lambda: world.figure("node-1-beacon", DATAGRAMS, reason=reason), before + count, reason
    )
    assert world.lines("node-1-beacon", "datagrams_refused", reason=reason)[0]["meaning"]
    assert world.figure("node-1-beacon", "drystone_beacon_in_quorum") == 1


def forged(world: World, reason: str) -> bytes:
    other = Heartbeat(world.node("node-2"), boot=9, seq=2**60)
    return {
        "malformed": b"\0" * 64,
        "bad_mac": other.sealed(OTHER_MASTER),  # of another cluster, or without our secret
        "own_name": Heartbeat(world.node("node-1"), boot=9).sealed(world.master),
    }[reason]


@pytest.mark.parametrize("reason", ["malformed", "bad_mac", "own_name"])
def test_a_forged_heartbeat_is_refused(world, reason):
    before = world.figure("node-1-beacon", DATAGRAMS, reason=reason)
    shoot(world, "node-1", forged(world, reason))
    heard_no(world, reason, before)


def test_a_node_cannot_be_spoken_for_with_the_key_of_another(world):
    before = world.figure("node-1-beacon", DATAGRAMS, reason="bad_mac")
    sealed = Heartbeat(world.node("node-3"), boot=9).sealed(world.master)
    renamed = sealed[:9] + world.node("node-2") + sealed[25:]
    shoot(world, "node-1", renamed, sealed[:-1] + b"\0")
    heard_no(world, "bad_mac", before, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="an eavesdropper needs root")
def test_a_heartbeat_that_was_recorded_and_is_repeated_proves_nothing(world):
    node = world.node("node-2")
    with recorded(world.beacon("node-1")) as packets:
        one = pick(packets, node)
        pick(packets, node)  # a newer one has arrived: what was recorded is old
    stale = world.figure("node-1-beacon", DATAGRAMS, reason="stale")
    shoot(world, "node-1", one)
    heard_no(world, "stale", stale)
    earlier = world.figure("node-1-beacon", DATAGRAMS, reason="earlier_boot")
    os.kill(world.cluster.pid("node-2-beacon"), 9)
    world.cluster.cli("local", "start", "node-2")
    with recorded(world.beacon("node-1")) as packets:
        boot = one[25:33]
        # Here, read with the next look, echoed, and answered: then the new boot is believed.
        for _ in range(5):
            next(d for d in packets if d[9:25] == node and d[25:33] != boot)
    shoot(world, "node-1", one)
    heard_no(world, "earlier_boot", earlier)
    world.cluster.wait_in_sync()


def test_a_flood_of_forged_heartbeats_is_counted_and_fills_no_log(world):
    before = world.figure("node-1-beacon", DATAGRAMS, reason="bad_mac")
    flooded = world.drives_of("node-1")
    for _ in range(20):
        shoot(world, "node-1", *[forged(world, "bad_mac")] * 50)
        time.sleep(0.02)  # what the socket cannot hold is lost, and counted by nobody
    wait_for(
        lambda: world.figure("node-1-beacon", DATAGRAMS, reason="bad_mac") > before + 100,
        "the flood in the figures", DEADLINE_S,
    )  # fmt: skip
    assert len(world.lines("node-1-beacon", "datagrams_refused", reason="bad_mac")) < 10
    assert world.figure("node-1-beacon", "drystone_beacon_in_quorum") == 1
    # A machine that stands still for a second may lose another node; the flooded one is heard.
    lost = world.lines("manager-1", "dropping a silent node")
    assert not any(set(line["drives"]) & flooded for line in lost)


# -- connections to a drive ---------------------------------------------------------------------


def turned_away(world: World, reason: str, before: float) -> None:
    world.becomes(lambda: world.figure("node-1", CONNECTIONS, reason=reason), before + 1, reason)
    assert world.lines("node-1-server", "connections_refused", reason=reason)[0]["meaning"]


WRONG: dict[str, dict[str, Any]] = {
    "wrong_cluster": {"cluster": b"c" * 16},
    "key_epoch": {"key_epoch": 77},
    "protocol": {"versions": (7, 9)},
    "bad_proof": {"key": b"k" * 32},
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_wrong_handshake_opens_no_connection(world, reason):
    before = world.figure("node-1", CONNECTIONS, reason=reason)
    hello = world.hello(**WRONG[reason])
    answers = exchange(world.drive("node-1"), hello.challenge(), hello.proof)
    assert verdict(answers[-1]) != WELCOME
    turned_away(world, reason, before)


def test_a_consumer_with_its_key_cannot_pretend_to_be_another(world):
    before = world.figure("node-1", CONNECTIONS, reason="bad_proof")
    mine = role_key(world.master, "client", world.node("block-2"), 1)
    hello = world.hello(uuid=world.node("block-1"), key=mine)
    assert verdict(exchange(world.drive("node-1"), hello.challenge(), hello.proof)[-1]) != WELCOME
    turned_away(world, "bad_proof", before)


def test_a_handshake_that_was_recorded_opens_no_second_connection(world):
    hello = world.hello()
    proofs: list[bytes] = []

    def prove(answer: bytes) -> bytes:
        proofs.append(hello.proof(answer))
        return proofs[0]

    answers = exchange(world.drive("node-1"), hello.challenge(), prove)
    assert verdict(answers[-1]) == WELCOME, "the honest one is admitted"
    before = world.figure("node-1", CONNECTIONS, reason="bad_proof")
    again = exchange(world.drive("node-1"), hello.challenge(), proofs[0])
    assert verdict(again[-1]) != WELCOME
    turned_away(world, "bad_proof", before)


@pytest.mark.parametrize("reason", ["malformed", "bad_frame", "too_slow"])
def test_what_is_not_our_protocol_ends_its_own_connection_only(world, reason):
    before = world.figure("node-1", CONNECTIONS, reason=reason)
    hello = world.hello()
    sent: dict[str, list[Any]] = {
        "malformed": [b"GET / HTTP/1.1\r\n\r\n".ljust(128)],
        "bad_frame": [hello.challenge(), hello.proof, b"\xff" * 4096],
        "too_slow": [b"D"],
    }
    exchange(world.drive("node-1"), *sent[reason])
    turned_away(world, reason, before)


def test_a_consumer_with_the_ticket_of_another_gets_nothing(world, tmp_path):
    (record,) = Records(world.layout.state("block-1") / "attachments").load()
    before = world.figure("node-1", "drystone_server_engine_count", counter="denied")
    thief = world.engine("block-2")
    try:
        config = f'{{"socket": "{tmp_path}/s", "export": "db", "recover": true, "near_node": null}}'
        thief.attach(record.ticket, config)
        wait_for(
            lambda: world.figure("node-1", "drystone_server_engine_count", counter="denied")
            > before, "the refusal in the figures", DEADLINE_S,
        )  # fmt: skip
        said = [event for event in thief.events() if '"active"' in event]
        assert not said, "it never got the volume"
    finally:
        thief.stop()
    assert world.lines("node-1-server", "requests_denied")[0]["meaning"]


# -- the control channel and REST ---------------------------------------------------------------


def refused(world: World, code: str, call: Any, request: Any, credential: str = "") -> None:
    """The call ends with this code, is counted once, and a line of the log says why."""
    before = world.refused_calls("control", code)
    metadata = world.bearer(credential) if credential else ()
    with pytest.raises(grpc.RpcError) as error:
        list(call(request, metadata=metadata, timeout=30))  # of a stream it is the first answer
    assert code_of(error.value) == code
    assert error.value.details()
    assert world.refused_calls("control", code) == before + 1
    (line, *_) = world.lines("manager-1", "calls_refused", interface="control", code=code)
    assert line["reason"]
    assert "127.0.0.1" in line["caller"]


def registration(world: World, **fields: Any) -> pb.RegisterRequest:
    usual = {"role": pb.ROLE_SERVER, "name": "node-9", "uuid": secrets.token_bytes(16)}
    return pb.RegisterRequest(**{**usual, **fields})


def credentials(world: World) -> dict[str, tuple[str, str]]:
    """Credentials that open nothing, with the code that says why."""
    node, stranger = world.node("node-1"), secrets.token_bytes(16)
    return {
        "none": ("", "unauthenticated"),
        "garbage": ("dsc1.server.00", "unauthenticated"),
        "of another cluster": (world.forged("server", node, OTHER_MASTER), "unauthenticated"),
        "of a name that is not there": (world.forged("server", stranger), "node_forgotten"),
    }


@pytest.mark.parametrize(
    "which", ["none", "garbage", "of another cluster", "of a name that is not there"]
)
def test_a_call_without_a_credential_of_this_cluster_is_refused(world, which):
    credential, code = credentials(world)[which]
    control = world.control
    refused(world, code, control.ReadMap, pb.ReadMapRequest(), credential)
    refused(world, code, control.MapStream, pb.MapStreamRequest(), credential)
    hello = pb.SessionUp(hello=pb.Hello(instance=5))
    refused(world, code, control.Session, iter([hello]), credential)
    silence = pb.ReportSilenceRequest(silent=[world.node("node-1"), world.node("node-2")])
    refused(world, code, control.ReportSilence, silence, credential)


def test_a_consumer_may_not_do_what_servers_do(world):
    mine = world.identity("block-2")["credential"]
    control = world.control
    refused(world, "wrong_role", control.OpenDrive, pb.OpenDriveRequest(), mine)
    refused(world, "wrong_role", control.LeavePg, pb.LeavePgRequest(drive=1), mine)
    refused(world, "wrong_role", control.RenewEpochs, pb.RenewEpochsRequest(drive=1), mine)
    refused(world, "wrong_role", control.ReportSilence, pb.ReportSilenceRequest(), mine)


def test_a_stranger_is_not_registered(world):
    call = world.control.Register
    refused(world, "join_token_invalid", call, registration(world, join_token="guessed" * 6))
    refused(world, "wrong_cluster", call, registration(world, cluster=b"c" * 16))
    refused(world, "invalid_argument", call, registration(world, uuid=b"short"))


def test_nobody_takes_the_name_of_another_node(world):
    token = world.cluster.rest.post("/v1/join-tokens", {"role": "server"})["token"]
    taken = registration(world, name="node-2", join_token=token)
    refused(world, "node_name_taken", world.control.Register, taken)


def test_a_copied_state_folder_is_refused_and_named(world):
    stolen = world.identity("node-2")["credential"]
    hello = pb.SessionUp(hello=pb.Hello(instance=secrets.randbits(63)))
    end = time.monotonic() + DEADLINE_S
    while "claimed_twice" not in world.problems():
        assert time.monotonic() < end, "status never names the copy"
        refused(world, "node_already_connected", world.control.Session, iter([hello]), stolen)
        time.sleep(1)
    assert "node-2" in world.problems()["claimed_twice"]
    wait_for(lambda: "claimed_twice" not in world.problems(), "it is forgotten", DEADLINE_S, 1.0)


def test_a_consumer_takes_no_attachment_of_another(world):
    (record,) = Records(world.layout.state("block-1") / "attachments").load()
    mine = world.bearer(world.identity("block-2")["credential"])
    volume, nonce, control = record.volume, record.nonce, world.control
    requests = (
        (control.ReadTicket, pb.ReadTicketRequest(volume=volume, nonce=nonce)),
        (control.Detach, pb.DetachRequest(volume=volume, nonce=nonce)),
        (control.ReAdopt, pb.ReAdoptRequest(volume=volume, nonces=[nonce], new_nonce=5)),
    )
    before = world.refused_calls("control", "attachment_gone")
    ended = 0
    for call, request in requests:
        try:
            call(request, metadata=mine, timeout=30)
        except grpc.RpcError as error:
            assert code_of(error) == "attachment_gone"
            ended += 1
    assert world.refused_calls("control", "attachment_gone") == before + ended
    assert ended >= 2
    (attached,) = world.cluster.rest.get("/v1/volumes/db")["attachments"]
    assert attached["node"] == "block-1", "it stands as it was"


def test_rest_refuses_who_may_not_and_what_it_cannot_read(world):
    base = f"{world.members['endpoints']['rest']}/v1"
    tokens = dict(
        line.split() for line in world.layout.tokens_file.read_text().splitlines() if line
    )
    admin = {"Authorization": f"Bearer {Path(world.members['token_file']).read_text().strip()}"}
    reader = {"Authorization": f"Bearer {tokens['read']}"} if "read" in tokens else None
    wrong = {"Authorization": "Bearer " + "x" * 43}
    cases: list[tuple[str, str, str, dict[str, str] | None, Any]] = [
        ("unauthenticated", "GET", "/status", None, None),
        ("unauthenticated", "DELETE", "/volumes/db", wrong, None),
        ("body_too_large", "POST", "/volumes", admin, b"{" + b" " * (100 << 10)),
        ("invalid_argument", "POST", "/volumes", admin, b"not json at all"),
        ("invalid_argument", "POST", "/volumes", admin, b'{"name": "x", "size": "\xff"}'),
        ("not_found", "GET", "/../etc/passwd", admin, None),
    ]
    if reader:
        cases.append(("forbidden", "DELETE", "/volumes/db", reader, None))
    for code, method, path, headers, body in cases:
        before = world.refused_calls("rest", code)
        sent = {**(headers or {}), "Content-Type": "application/json"}
        answer = httpx.request(
            method, base + path, headers=sent, content=body, trust_env=False, timeout=30
        )
        assert answer.json()["code"] == code
        assert answer.json()["detail"]
        assert world.refused_calls("rest", code) == before + 1
    (line,) = world.lines("manager-1", "calls_refused", interface="rest", code="unauthenticated")
    assert line["reason"] == "a valid token is needed"
    assert world.cluster.status()["health"] == "ok"


def test_garbage_at_every_port_stops_nothing(world):
    endpoints = world.members["endpoints"]
    manager = world.members["manager"]
    ports = [manager["control_port"], manager["rest_port"], manager["metrics_port"]]
    ports += [int(url.rsplit(":", 1)[1].partition("/")[0]) for url in endpoints["metrics"].values()]
    before = world.cluster.pids()
    for port, seed in itertools.product(
        ports, (b"\0" * 4096, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff")
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
            peer.sendall(seed)
    assert world.cluster.status()["health"] == "ok"
    assert world.cluster.pids() == before


# -- the metadata store -------------------------------------------------------------------------


async def store(world: World, namespace: str = "/drystone") -> EtcdStore:
    endpoints = tuple(f"127.0.0.1:{m['client_port']}" for m in world.members["etcd"])
    return await EtcdStore.open(EtcdConfig(endpoints, namespace))


def manager(world: World, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Another manager at the same etcd, to its end."""
    endpoints = ", ".join(f'"127.0.0.1:{m["client_port"]}"' for m in world.members["etcd"])
    values = {
        "name": "manager-9", "state_dir": str(folder / "state"), "metadata": "etcd",
        "rest_listen": "127.0.0.1:0", "control_listen": "127.0.0.1:0",
        "tokens_file": str(world.layout.tokens_file),
        "master_key_file": str(world.layout.master_file), **settings,
    }  # fmt: skip
    config = folder / "manager.toml"
    text = "".join(f'{key} = "{value}"\n' for key, value in values.items())
    config.write_text(f"{text}etcd_endpoints = [{endpoints}]\n")
    return subprocess.run(
        [sys.executable, "-m", "drystone_cli", "manager", "--config", str(config)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


async def test_no_manager_founds_a_cluster_among_somebody_elses_keys(world, tmp_path):
    theirs = await store(world, "/theirs")
    await theirs.txn([], [Put("/registry/pods/x", b"theirs")])
    ended = manager(world, tmp_path, etcd_namespace="/theirs")
    assert ended.returncode != 0
    assert "keys that are none of ours ('/registry/pods/x')" in ended.stderr
    assert [item.key for item in (await theirs.range("/")).items] == ["/registry/pods/x"]
    await theirs.close()


def test_a_manager_with_another_secret_does_not_serve_this_cluster(world, tmp_path):
    other = tmp_path / "master.key"
    other.write_text(OTHER_MASTER.hex() + "\n")
    ended = manager(world, tmp_path, master_key_file=str(other))
    assert ended.returncode != 0
    assert "is not the one that the cluster was founded with" in ended.stderr


async def set_aside(world: World, kind: str, count: int) -> None:
    name = "drystone_manager_refused_records"
    world.becomes(lambda: world.figure("manager-1", name, kind=kind), count, f"refused {kind}")


@pytest.mark.parametrize(
    ("kind", "key", "problem"),
    [
        ("foreign", "/pool/somebody/elses", "foreign_keys"),
        ("drive", keys.drive(1), "record_unreadable"),
        ("pool", keys.shard(1, 0), "record_unreadable"),
    ],
)
async def test_garbage_in_the_store_is_set_aside_and_named(world, kind, key, problem):
    records = await store(world)
    was = await records.get(key)
    await records.txn([], [Put(key, b"\xff\0garbage")])
    await set_aside(world, kind, 1)
    told = world.lines("manager-1", "a record is refused", kind=kind)
    assert told[0]["record"] == key
    assert told[0]["reason"]
    assert key in world.problems()[problem]
    world.writer.goes_on(20, DEADLINE_S)
    await records.txn([], [Put(key, was.value) if was else Delete(key)])
    await set_aside(world, kind, 0)
    wait_for(lambda: problem not in world.problems(), "all is well again", DEADLINE_S, 0.5)
    await records.close()


# -- drives -------------------------------------------------------------------------------------


def test_a_drive_of_another_cluster_is_refused_and_left_as_it_is(world, tmp_path):
    place = world.stopped("node-3")
    kept = place.with_suffix(".kept")
    place.rename(kept)
    other = (
        '{"cluster": "11111111-1111-4111-8111-111111111111", "uuid": '
        '"22222222-2222-4222-8222-222222222222", "incarnation": 1, "feature_level": 1, '
        '"create_bytes": 4294967296, "segment_bytes": null}'
    )
    drystone_native.format_drive(str(place), other)
    before = drystone_native.inspect_drive(str(place))
    figure = "drystone_server_refused_drives"
    try:
        world.cluster.cli("local", "start", "node-3")
        world.becomes(lambda: world.figure("node-3", figure, code="wrong_cluster"), 1, figure)
        wait_for(lambda: "drive_refused" in world.problems(), "the problem", DEADLINE_S, 0.5)
        assert place.name in world.problems()["drive_refused"]
        (line, *_) = world.lines("node-3-server", "drive_refused", code="wrong_cluster")
        assert "belongs to cluster 11111111" in line["reason"]
    finally:
        # Its own drive comes back whatever was found: the last test looks at all of them.
        world.stopped("node-3")
        after = drystone_native.inspect_drive(str(place))
        shutil.move(kept, place)
        world.cluster.cli("local", "start", "node-3")
    assert after == before, "nothing was written to it"
    world.cluster.wait_in_sync()
    world.becomes(lambda: world.figure("node-3", figure), 0, figure)


def test_after_all_of_it_every_acknowledged_block_is_there(world):
    world.cluster.wait_in_sync()
    wait_for(lambda: world.cluster.status()["health"] == "ok", "all is well", DEADLINE_S, 0.5)
    world.report = world.writer.stop()
    assert world.report.errors == 0, world.report.first_error
    assert verify(world.writer.region, world.report) == SLOTS
    for node in ("node-1", "node-2", "node-3"):
        assert not world.lines(f"{node}-server", "invariant_broken")
