"""TLS of REST and the control channel: verified, renewed without a restart, told when refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
import structlog

from drystone_common.errors import DataError, DrystoneError, ExitCode, InvalidArgumentError
from drystone_csi.manager_rest import RestManager
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.rest import Rest
from drystone_storaged.agent.trust import Trust
from drystone_storaged.cluster import leadership
from drystone_storaged.manager.app import check_listen
from drystone_storaged.manager.metrics import manager_metrics
from drystone_storaged.manager.settings import ManagerSettings
from drystone_storaged.manager.tls import ServerCertificate
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged import manager_env, tls_env
from tests.storaged.etcd_server import Etcd
from tests.storaged.manager_env import until
from tests.storaged.managers_env import cluster, depose
from tests.storaged.tls_env import ask, authority, leaf, managing, mounted, session, settings, shown
from tests.unit import source_tree

PROCESS_S = 180.0  # a process of ours that starts on a machine with other work


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    tls_env.quick(monkeypatch)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "m"
    made.mkdir()
    return made


async def read_map(control: Control) -> int:
    answer = await control.call(lambda stub: stub.ReadMap, pb.ReadMapRequest(), within_s=20.0)
    return int(answer.revision)


async def test_both_channels_are_used_by_whoever_trusts_the_ca(folder):
    by = authority()
    (folder / "ca").write_text(by.certificate)
    async with managing(folder, leaf(by)) as started:
        assert started.rest.startswith("https://")
        assert (await ask(folder, started.rest, folder / "ca"))["uuid"]
        csi = RestManager(started.rest, (folder / "admin").read_text(), ca_file=str(folder / "ca"))
        assert await csi.cluster_uuid()
        await csi.aclose()
        control = Control([started.control], folder / "ca")
        async with session(folder, started.rest, control):
            assert await read_map(control) >= 0
        await control.aclose()


def test_every_daemon_verifies_its_managers():
    calls = [
        call
        for path in (source_tree.ROOT / "storaged" / "drystone_storaged").rglob("*.py")
        for call in re.findall(r"\bControl\((settings[^)]*)\)", path.read_text())
    ]
    assert len(calls) >= 2, "server and block daemon at least"
    assert set(calls) == {"settings.managers, settings.tls_ca_file"}


async def test_the_newest_version_is_agreed_upon_and_old_ones_are_refused(folder):
    async with managing(folder, leaf(authority())) as started:
        for address in (started.rest, started.control):
            assert (await shown(address))[1] == "TLSv1.3"
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.deprecated_call():
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        for address in (started.rest, started.control):
            host, _, port = address.rpartition("//")[2].rpartition(":")
            with pytest.raises(OSError):
                await asyncio.open_connection(host, int(port), ssl=old)


@pytest.mark.parametrize("name", [None, "localhost"])
async def test_a_new_certificate_is_shown_to_new_connections_and_no_session_ends(folder, name):
    by = authority()
    (folder / "ca").write_text(by.certificate)
    first, second = leaf(by), leaf(by)
    files = mounted(folder / "tls", first)
    async with managing(folder, files) as started:
        control = Control([started.control], folder / "ca")
        async with session(folder, started.rest, control) as opened:
            assert (await shown(started.rest, name))[0] == first.certificate
            files.swap(crt=second.certificate, key=second.key)
            for address in (started.rest, started.control):

                async def renewed(address: str = address) -> bool:
                    return (await shown(address, name))[0] == second.certificate

                await until(renewed, f"the new certificate at {address}")
            assert opened.connected.is_set()
            (known,) = started.services.sessions.all("client")
            assert known.name == "block-a"
            assert control.turn == 0
        await control.aclose()


async def test_clients_take_up_another_ca_without_a_restart(folder):
    old, new = authority("old"), authority("new")
    trust = tls_env.Mounted(folder / "trust", ca=old.certificate)
    (folder / "ca").write_text(old.certificate + new.certificate)
    files = mounted(folder / "tls", leaf(old))
    async with managing(folder, files) as started:
        control = Control([started.control], trust / "ca")
        csi = RestManager(started.rest, (folder / "admin").read_text(), ca_file=str(trust / "ca"))
        assert await csi.healthy()
        other = leaf(new)
        files.swap(crt=other.certificate, key=other.key)

        async def renewed() -> bool:
            return (await shown(started.control))[0] == other.certificate

        await until(renewed, "the certificate of the new CA")
        trust.swap(ca=old.certificate + new.certificate)
        assert await csi.healthy()
        async with session(folder, started.rest, control):
            assert await read_map(control) >= 0
            assert control.turn > 0
        await control.aclose()
        await csi.aclose()


async def test_a_ca_that_is_taken_away_is_trusted_by_no_new_connection(folder):
    by = authority()
    trust = tls_env.Mounted(folder / "trust", ca=by.certificate)
    async with managing(folder, leaf(by)) as started:
        csi = RestManager(started.rest, (folder / "admin").read_text(), ca_file=str(trust / "ca"))
        assert await csi.cluster_uuid()
        trust.swap(ca=authority("another").certificate)
        with pytest.raises(DrystoneError) as caught:
            await csi.capacity(None)
        assert caught.value.code == "certificate_unknown_ca"
        await csi.aclose()


CASES = {
    "certificate_expired": ("its certificate has expired", "operator renews it"),
    "certificate_wrong_name": ("for other names", "a name or an address"),
    "certificate_unknown_ca": ("not trusted here", "tls_ca_file"),
    "tls_not_spoken": ("does not speak TLS", "tls_cert_file"),
    "tls_expected": ("it speaks TLS", "https://"),
}


@contextlib.asynccontextmanager
async def refused(folder, case: str):
    """A manager that cannot be used: REST address, control address, and what is trusted."""
    by = authority()
    pair = {
        "certificate_expired": leaf(by, expired=True),
        "certificate_wrong_name": leaf(by, ("elsewhere.example", "10.9.8.7")),
        "certificate_unknown_ca": leaf(authority("another")),
        "tls_not_spoken": None,
        "tls_expected": leaf(by),
    }[case]
    (folder / "ca").write_text(by.certificate)
    async with managing(folder, pair) as started:
        scheme = "http" if case == "tls_expected" else "https"
        ca_file = None if case == "tls_expected" else folder / "ca"
        yield f"{scheme}://{started.rest.rpartition('//')[2]}", started.control, ca_file


def told(error: DrystoneError, case: str) -> None:
    message, hint = CASES[case]
    assert (error.code, message in error.message) == (case, True), error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize("case", CASES)
async def test_rest_says_why_a_manager_cannot_be_used_and_what_to_do(folder, case):
    async with refused(folder, case) as (url, _, ca_file):
        for urls in (url, [url, url.replace("127.0.0.1", "localhost")]):
            with pytest.raises(DrystoneError) as caught:
                await ask(folder, urls, ca_file)
            told(caught.value, case)
            csi = RestManager(urls, "t", ca_file=str(ca_file or ""))
            with pytest.raises(DrystoneError) as caught:
                await csi.cluster_uuid()
            told(caught.value, case)
            await csi.aclose()


@pytest.mark.parametrize("case", CASES)
async def test_the_log_of_a_daemon_says_why_a_manager_cannot_be_used(folder, case):
    async with refused(folder, case) as (_, address, ca_file):
        control = Control([address], ca_file or "")
        with structlog.testing.capture_logs() as lines:

            def said() -> bool:
                return any(CASES[case][0] in line.get("detail", "") for line in lines)

            asking = asyncio.create_task(read_map(control))
            await until(said, "a line that says why")
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        line = next(line for line in lines if CASES[case][0] in line.get("detail", ""))
        assert line["event"] == "manager_unreachable"
        assert CASES[case][1] in line["hint"]
        assert address in line["detail"]
        await control.aclose()


async def test_a_call_with_a_deadline_ends_with_the_reason(folder):
    async with refused(folder, "certificate_unknown_ca") as (_, address, ca_file):
        control = Control([address], ca_file)
        with pytest.raises(DrystoneError) as caught:
            await control.call(lambda stub: stub.ReadMap, pb.ReadMapRequest(), within_s=0.5)
        told(caught.value, "certificate_unknown_ca")
        await control.aclose()


async def test_no_token_leaves_in_clear_text_where_a_ca_is_given(folder):
    (folder / "ca").write_text(authority().certificate)
    for make in (
        lambda: Rest("http://m:8460", "t", ca_file=folder / "ca"),
        lambda: RestManager(["https://a:1", "http://b:1"], "t", ca_file=str(folder / "ca")),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            make()
        assert caught.value.code == "not_https"


def test_a_ca_file_that_is_none_is_told_and_a_bad_change_changes_nothing(folder):
    for text in (None, "", "no certificate", "\xff"):
        if text is not None:
            (folder / "ca").write_text(text)
        with pytest.raises(DataError) as caught:
            Trust(folder / "ca")
        assert caught.value.code == "ca_invalid"
        assert caught.value.hint
    good = authority().certificate
    (folder / "ca").write_text(good)
    trust = Trust(folder / "ca")
    for bad in ("half of one", None):
        (folder / "ca").write_text(bad) if bad else (folder / "ca").unlink()
        assert not trust.refresh()
        assert trust.pem == good.encode()
    (folder / "ca").write_text(good)
    assert not trust.refresh(), "the same content"
    (folder / "ca").write_text(good + authority("new").certificate)
    assert trust.refresh()
    assert not trust.refresh()


def test_a_pair_that_does_not_belong_together_is_refused_at_the_start(folder):
    by = authority()
    one, two = leaf(by), leaf(by)
    bad = {
        "certificate": ("no certificate", one.key),
        "no key": (one.certificate, "nothing"),
        "not that": (one.certificate, two.key),
        "does not exist": (one.certificate, None),
    }
    for number, (said, (crt, key)) in enumerate(bad.items()):
        place = folder / str(number)
        place.mkdir()
        (place / "crt").write_text(crt)
        if key is not None:
            (place / "key").write_text(key)
        with pytest.raises(DrystoneError, match=said):
            ServerCertificate(place / "crt", place / "key")


def test_a_half_swapped_pair_is_left_alone_until_it_is_whole(folder):
    by = authority()
    one, two = leaf(by), leaf(by)
    (folder / "crt").write_text(one.certificate)
    (folder / "key").write_text(one.key)
    certificate = ServerCertificate(folder / "crt", folder / "key")
    assert not certificate.reload()
    (folder / "crt").write_text(two.certificate)
    with structlog.testing.capture_logs() as lines:
        assert not certificate.reload()
        assert not certificate.reload()
    assert [line["event"] for line in lines] == ["certificate_not_loaded"], "told once"
    assert certificate.pair.chain == one.certificate.encode()
    (folder / "key").write_text(two.key)
    assert certificate.reload()
    assert certificate.pair.chain == two.certificate.encode()


def test_an_expired_certificate_is_loaded_and_loudly_told(folder):
    pair = mounted(folder / "tls", leaf(authority(), expired=True))
    with structlog.testing.capture_logs() as lines:
        certificate = ServerCertificate(pair / "crt", pair / "key")
    assert (lines[0]["event"], lines[0]["log_level"]) == ("certificate_expired", "error")
    assert certificate.ends() < time.time()


async def test_a_certificate_that_ends_while_it_is_in_use_is_told_once(folder):
    pair = mounted(folder / "tls", leaf(authority()))
    certificate = ServerCertificate(pair / "crt", pair / "key")
    with structlog.testing.capture_logs() as lines:
        certificate.pair = replace(certificate.pair, not_after=time.time())
        running = asyncio.create_task(certificate.run())
        await until(lambda: lines, "a line")
        looks = len(lines)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [line["event"] for line in lines] == ["certificate_expired"] * looks
    assert looks == 1


@contextlib.asynccontextmanager
async def process(*arguments: str, **variables: str):
    argv = [sys.executable, "-m", "drystone_cli", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DRYSTONE_")}
    started = await asyncio.create_subprocess_exec(
        *argv, env=environment | variables, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def run_command(*arguments: str, **variables: str) -> tuple[int, str, str]:
    async with process(*arguments, **variables) as started, asyncio.timeout(PROCESS_S):
        out, err = await started.communicate()
    return started.returncode or 0, out.decode(), err.decode()


async def test_a_manager_process_renews_its_certificate_and_logs_json_only(folder, monkeypatch):
    monkeypatch.setattr(manager_env, "DEADLINE_S", PROCESS_S)
    by = authority()
    (folder / "ca").write_text(by.certificate)
    (folder / "other").write_text(authority("another").certificate)
    first, second = leaf(by), leaf(by)
    files = mounted(folder / "tls", first)
    (folder / "manager.toml").write_text(
        f'state_dir = "{folder}"\nrest_listen = "127.0.0.1:0"\ncontrol_listen = "127.0.0.1:0"\n'
        f'tls_cert_file = "{files / "crt"}"\ntls_key_file = "{files / "key"}"\n'
    )
    async with process("manager", "--config", str(folder / "manager.toml")) as started:
        await until((folder / "endpoints.json").exists, "the manager's addresses")
        found = json.loads((folder / "endpoints.json").read_text())
        stranger = Control([found["control"]], folder / "other")
        with pytest.raises(DrystoneError, match="not trusted"):
            await stranger.call(lambda stub: stub.ReadMap, pb.ReadMapRequest(), within_s=0.5)
        await stranger.aclose()
        files.swap(crt=second.certificate, key=second.key)

        async def renewed() -> bool:
            return (await shown(found["control"]))[0] == second.certificate

        await until(renewed, "the new certificate")
        started.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PROCESS_S):
            _, err = await started.communicate()
    assert started.returncode == 0
    events = [json.loads(line)["event"] for line in err.decode().splitlines()]
    assert events.count("certificate_loaded") == 2


async def test_commands_name_the_ca_by_an_option_or_a_variable(folder):
    by = authority()
    (folder / "ca").write_text(by.certificate)
    (folder / "other").write_text(authority("another").certificate)
    async with managing(folder, leaf(by)) as started:
        where = {"DRYSTONE_URL": started.rest, "DRYSTONE_TOKEN_FILE": str(folder / "admin")}
        right, wrong = str(folder / "ca"), str(folder / "other")
        code, out, err = await run_command(
            "--ca-file", right, "node", "list", "-o", "json", **where
        )
        assert (code, out.strip()[:1]) == (0, "{"), err
        code, _, err = await run_command("status", **where, DRYSTONE_CA_FILE=wrong)
        assert (code, "not trusted here" in err) == (int(ExitCode.UNAVAILABLE), True), err
        assert "--ca-file" in err


async def test_the_end_of_the_certificate_is_a_metric(folder):
    async with managing(folder, leaf(authority())) as started:
        pass
    text = manager_metrics(started.services, lambda: 1.5e9).render().decode()
    assert re.search(
        r"^drystone_manager_certificate_expiry_seconds\{?.* 1.5e\+09$", text, re.MULTILINE
    )
    assert "certificate_expiry" not in manager_metrics(started.services).render().decode()


def test_with_a_certificate_every_address_may_be_listened_on(folder):
    pair = mounted(folder / "tls", leaf(authority()))
    open_to_all: dict[str, Any] = {"rest_listen": "0.0.0.0:8460", "control_listen": "0.0.0.0:8461"}
    check_listen(settings(folder, pair, metrics_listen="0.0.0.0:8490", **open_to_all))
    with pytest.raises(DrystoneError) as caught:
        check_listen(settings(folder, **open_to_all))
    assert caught.value.code == "insecure_listen"
    assert "tls_cert_file" in (caught.value.hint or "")


@pytest.mark.parametrize("given", ["tls_cert_file", "tls_key_file"])
def test_a_certificate_without_its_key_is_no_setting(folder, given):
    with pytest.raises(ValueError, match="both or neither"):
        ManagerSettings(state_dir=folder, **{given: folder / "x"})


async def test_clients_go_on_with_the_other_of_two_managers(folder, monkeypatch):
    monkeypatch.setattr(leadership, "TTL_S", 30.0)
    by = authority()
    (folder / "ca").write_text(by.certificate)
    pair = mounted(folder / "tls", leaf(by))
    files = {"tls_cert_file": pair / "crt", "tls_key_file": pair / "key"}
    etcd = Etcd(folder)
    etcd.start()
    try:
        async with cluster(folder, etcd.endpoints, ()) as made:
            managers = [await made.start(name, **files) for name in ("m1", "m2")]
            (folder / "admin").write_text(made.tokens["admin"])
            urls = [m.running.rest for m in managers]
            control = Control([m.running.control for m in managers], folder / "ca")
            leader = await made.leader()
            (other,) = [m for m in managers if m is not leader]
            known = (await ask(folder, urls, folder / "ca"))["uuid"]
            async with session(folder, leader.running.rest, control):
                assert control.address == leader.running.control
                await depose(leader)
                await made.leader(besides=leader)
                assert (await ask(folder, urls, folder / "ca"))["uuid"] == known
                await until(lambda: other.services.sessions.all("client"), "the session moves on")
                assert control.address == other.running.control
            await control.aclose()
    finally:
        etcd.kill()
