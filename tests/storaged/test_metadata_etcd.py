from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from pathlib import Path

import grpc
import httpx
import pytest

from drystone_storaged.cluster import etcd_client, etcd_codec, store_etcd
from drystone_storaged.cluster.etcd_client import EtcdConfig, Member
from drystone_storaged.cluster.etcd_errors import StoreDeniedError, StoreFullError
from drystone_storaged.cluster.etcd_keepalive import Keepalive
from drystone_storaged.cluster.store import (
    Compare,
    LeaseNotFoundError,
    Put,
    StoreUnavailableError,
)
from drystone_storaged.cluster.store_etcd import EtcdStore
from tests.storaged.etcd_server import Etcd, openssl
from tests.storaged.metadata_conformance import MetadataConformance, take

_numbers = itertools.count()


@pytest.fixture
def one(etcd):
    return etcd


@pytest.fixture
def three(tmp_path):
    etcd = Etcd(tmp_path, 3)
    etcd.start()
    yield etcd
    etcd.kill()


class RealClock:
    """etcd's leases follow the real clock; it looks at them twice a second."""

    def advance(self, seconds: float) -> None:
        time.sleep(seconds + (1.0 if seconds > 1 else 0.0))


class TestEtcd(MetadataConformance):
    @pytest.fixture
    def factory(self, one):
        @contextlib.asynccontextmanager
        async def make():
            namespace = f"/t{next(_numbers)}"
            store = await EtcdStore.open(EtcdConfig(one.endpoints, namespace))
            try:
                yield store, RealClock()
            finally:
                await store.close()

        return make


async def test_two_namespaces_do_not_see_each_other(one):
    a = await EtcdStore.open(EtcdConfig(one.endpoints, "/ns/a"))
    b = await EtcdStore.open(EtcdConfig(one.endpoints, "/ns/ab"))
    await a.txn([], [Put("/k", b"a")])
    await b.txn([], [Put("/k", b"b")])
    assert [kv.value for kv in (await a.range("/")).items] == [b"a"]
    assert [kv.value for kv in (await b.range("/")).items] == [b"b"]
    await a.close()
    await b.close()


async def test_reads_and_writes_go_on_after_any_one_member_dies(three):
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    for number in range(3):
        await store.txn([], [Put("/k", b"%d" % number)])
        three.kill(number)
        found = await store.get("/k")
        assert found is not None
        assert found.value == b"%d" % number
        await until_written(store, "/after", b"%d" % number)
        three.start(number)
    await store.close()


async def until_written(store: EtcdStore, key: str, value: bytes) -> None:
    """Write as the services do: an open outcome is looked at before it is tried again."""
    async with asyncio.timeout(30):
        while True:
            try:
                await store.txn([], [Put(key, value)])
            except StoreUnavailableError:
                found = None
                with contextlib.suppress(StoreUnavailableError):
                    found = await store.get(key)
                if found is not None and found.value == value:
                    return
            else:
                return


async def test_a_frozen_member_costs_a_deadline_not_the_service(three):
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    await store.txn([], [Put("/k", b"1")])
    three.signal(0, signal.SIGSTOP)
    try:
        found = await store.get("/k")
        await until_written(store, "/k", b"2")
    finally:
        three.signal(0, signal.SIGCONT)
    assert found is not None
    await store.close()


async def test_a_watch_goes_over_the_death_of_members_without_gap_or_repetition(three):
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    writer = await EtcdStore.open(EtcdConfig(three.endpoints[::-1]))
    stream = store.watch("/w/", await store.revision() + 1)
    told: list[bytes | None] = []

    async def follow(count: int) -> None:
        told.extend(value for _, value in await take(stream, count))

    sent = 0
    for number in range(3):
        for _ in range(5):
            await until_written(writer, f"/w/{sent:02}", b"%d" % sent)
            sent += 1
        await follow(5)
        three.kill(number)
        for _ in range(5):
            await until_written(writer, f"/w/{sent:02}", b"%d" % sent)
            sent += 1
        async with asyncio.timeout(40):
            while len(told) < sent:
                batch = await anext(stream)
                told.extend(event.value for event in batch.events)
        three.start(number)
    # A write whose answer was lost and that was made twice appears twice; order never changes.
    assert sorted(set(told), key=lambda v: int(v or b"0")) == [b"%d" % i for i in range(sent)]
    await stream.aclose()
    await store.close()
    await writer.close()


async def test_without_a_majority_calls_fail_in_time_and_work_again_after(three):
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    await store.txn([], [Put("/k", b"1")])
    three.kill(0, 1)
    with pytest.raises(StoreUnavailableError):
        async with asyncio.timeout(20):
            await store.get("/k")
    with pytest.raises(StoreUnavailableError):
        async with asyncio.timeout(20):
            await store.txn([Compare.absent("/x")], [Put("/x", b"")])
    three.start(0, 1)
    await until_written(store, "/k", b"2")
    await store.close()


async def test_nobody_there_is_said_with_the_addresses(tmp_path):
    with pytest.raises(StoreUnavailableError) as caught:
        await EtcdStore.open(EtcdConfig(("127.0.0.1:1",)))
    assert "127.0.0.1:1" in caught.value.message


def _admin(etcd: Etcd, path: str, **body: str) -> None:
    answer = httpx.post(f"http://{etcd.endpoints[0]}/v3/auth/{path}", json=body, timeout=10)
    answer.raise_for_status()


@pytest.fixture
def guarded(tmp_path):
    etcd = Etcd(tmp_path, extra=["--auth-token-ttl", "1"])
    etcd.start()
    _admin(etcd, "user/add", name="root", password="secret")
    _admin(etcd, "user/grant", user="root", role="root")
    _admin(etcd, "user/add", name="guest", password="guest")
    _admin(etcd, "enable")
    yield etcd
    etcd.kill()


def _login(etcd: Etcd, tmp_path: Path, user: str, password: str) -> EtcdConfig:
    path = tmp_path / f"{user}.password"
    path.write_text(password + "\n")
    return EtcdConfig(etcd.endpoints, user=user, password_file=path)


async def test_a_login_that_expired_is_renewed_unnoticed(guarded, tmp_path):
    store = await EtcdStore.open(_login(guarded, tmp_path, "root", "secret"))
    stream = store.watch("/k", await store.revision() + 1)
    for value in (b"1", b"2"):
        await store.txn([], [Put("/k", value)])
        assert await take(stream, 1) == [("/k", value)]
        await asyncio.sleep(2.5)  # what is under test: etcd forgets the token after a second
    await stream.aclose()
    await store.close()


@pytest.mark.parametrize(
    ("user", "password"), [("root", "wrong"), ("nobody", "x"), ("guest", "guest"), ("", "")]
)
async def test_who_may_not_is_told_what_to_check(guarded, tmp_path, user, password):
    config = _login(guarded, tmp_path, user, password) if user else EtcdConfig(guarded.endpoints)
    with pytest.raises(StoreDeniedError) as caught:
        await EtcdStore.open(config)
    assert "password" in (caught.value.hint or "")
    assert "wrong" not in str(caught.value)


async def test_a_changed_password_is_read_anew(guarded, tmp_path):
    config = _login(guarded, tmp_path, "root", "wrong")
    with pytest.raises(StoreDeniedError):
        await EtcdStore.open(config)
    assert config.password_file is not None
    config.password_file.write_text("secret")
    store = await EtcdStore.open(config)
    await store.close()


@pytest.fixture
def certificates(tmp_path):
    """A CA, a certificate of the server's for 127.0.0.1, and one of ours."""
    openssl(
        tmp_path, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key",
        "-out", "ca.crt", "-subj", "/CN=test-ca", "-days", "2",
    )  # fmt: skip
    (tmp_path / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(
            tmp_path, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key",
            "-out", f"{name}.csr", "-subj", f"/CN={name}",
        )  # fmt: skip
        openssl(
            tmp_path, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{name}.crt", "-days", "2", "-extfile", "san",
        )  # fmt: skip
    return tmp_path


@pytest.fixture
def encrypted(tmp_path, certificates):
    etcd = Etcd(
        tmp_path,
        extra=[
            "--cert-file", str(certificates / "server.crt"),
            "--key-file", str(certificates / "server.key"),
            "--trusted-ca-file", str(certificates / "ca.crt"), "--client-cert-auth",
        ],
    )  # fmt: skip
    etcd.start()
    yield etcd
    etcd.kill()


async def test_tls_with_our_own_certificate(encrypted, certificates):
    config = EtcdConfig(
        encrypted.endpoints,
        ca_file=certificates / "ca.crt",
        cert_file=certificates / "client.crt",
        key_file=certificates / "client.key",
    )
    store = await EtcdStore.open(config)
    await store.txn([], [Put("/k", b"1")])
    stream = store.watch("/k", await store.revision())
    assert await take(stream, 1) == [("/k", b"1")]
    await stream.aclose()
    await store.close()


@pytest.mark.parametrize("ca", [False, True])
async def test_without_the_right_certificate_nothing_is_said(encrypted, certificates, ca):
    config = EtcdConfig(encrypted.endpoints, ca_file=certificates / "ca.crt" if ca else None)
    with pytest.raises(StoreUnavailableError) as caught:
        await EtcdStore.open(config)
    assert "certificates" in (caught.value.hint or "")


async def test_a_full_etcd_is_named_and_still_reads(tmp_path):
    etcd = Etcd(tmp_path, extra=["--quota-backend-bytes", str(4 << 20)])
    etcd.start()
    try:
        store = await EtcdStore.open(EtcdConfig(etcd.endpoints))

        async def fill() -> None:
            for number in range(64):
                await store.txn([], [Put(f"/fill/{number}", bytes(256 << 10))])

        with pytest.raises(StoreFullError) as caught:
            await fill()
        assert "quota" in (caught.value.hint or "")
        assert await store.get("/fill/0") is not None
        assert (await store.view([], ["/fill/"])).prefixes[0]
        await store.close()
    finally:
        etcd.kill()


async def test_pages_of_a_view_are_of_one_moment(three, monkeypatch):
    for module in (etcd_codec, store_etcd):
        monkeypatch.setattr(module, "RANGE_LIMIT_MAX", 2)
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    names = [f"/p/{number}" for number in range(5)]
    await store.txn([], [Put(name, b"old") for name in names])
    ask = store._range

    async def ask_later(request):
        await store.txn([], [Put(name, b"new") for name in names])
        return await ask(request)

    monkeypatch.setattr(store, "_range", ask_later)
    seen = await store.view([], ["/p/"])
    assert [(kv.key, kv.value) for kv in seen.prefixes[0]] == [(name, b"old") for name in names]
    await store.close()


async def test_a_view_whose_moment_is_compacted_between_pages_is_read_anew(three, monkeypatch):
    for module in (etcd_codec, store_etcd):
        monkeypatch.setattr(module, "RANGE_LIMIT_MAX", 2)
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    await store.txn([], [Put(f"/p/{number}", b"old") for number in range(3)])
    ask = store._range
    compacted: list[int] = []

    async def ask_later(request):
        if not compacted:
            done = await store.txn([], [Put("/p/0", b"new")])
            compacted.append(done.revision)
            await store.compact(done.revision)
        return await ask(request)

    monkeypatch.setattr(store, "_range", ask_later)
    seen = await store.view([], ["/p/"])
    assert [kv.value for kv in seen.prefixes[0]] == [b"new", b"old", b"old"]
    await store.close()


async def test_a_kept_lease_outlives_the_death_of_each_member(three):
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    lease = await store.lease_grant(5.0)
    await store.txn([], [Put("/l", b"", lease)])
    for number in range(3):
        three.kill(number)
        await store.lease_keepalive(lease)
        assert await store.get("/l") is not None
        three.start(number)
    await store.close()


async def test_renewals_share_a_stream_until_its_member_says_nothing(three, monkeypatch):
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    opened: list[Member] = []
    anew = Keepalive._anew

    async def counted(self, lease, member, login, left):
        opened.append(member)
        return await anew(self, lease, member, login, left)

    monkeypatch.setattr(Keepalive, "_anew", counted)
    lease = await store.lease_grant(60.0)
    for _ in range(5):
        await store.lease_keepalive(lease)
    assert len(opened) == 1
    frozen = three.endpoints.index(opened[0].endpoint)
    three.signal(frozen, signal.SIGSTOP)
    try:
        await store.lease_keepalive(lease)
        assert opened[-1] is not opened[0], "another member was asked"
    finally:
        three.signal(frozen, signal.SIGCONT)
    await store.lease_revoke(lease)
    with pytest.raises(LeaseNotFoundError):
        await store.lease_keepalive(lease)
    await store.close()


async def test_a_member_that_says_nothing_is_not_asked_again_for_its_standing_connection(
    three, monkeypatch
):
    """Nobody connects again to members that were restarted while another one is asked."""
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    lease = await store.lease_grant(60.0)
    await store.lease_keepalive(lease)
    stream = store._keepalive._open
    assert stream is not None
    others = [m for m in store._client._members if m is not stream[0]]
    for member in others:
        number = three.endpoints.index(member.endpoint)
        async with asyncio.timeout(30):
            await member.connected()
        three.kill(number)
        three.start(number)
        async with asyncio.timeout(30):
            while (state := member.channel.get_state()) is not grpc.ChannelConnectivity.IDLE:
                await member.channel.wait_for_state_change(state)
    frozen = three.endpoints.index(stream[0].endpoint)
    three.signal(frozen, signal.SIGSTOP)
    try:
        monkeypatch.setattr(etcd_client, "AHEAD_S", 30.0)  # as long as a busy machine needs
        store._client.failed(stream[0])
        assert await store._client._pick() in others
    finally:
        three.signal(frozen, signal.SIGCONT)
    await store.close()


async def test_closing_ends_a_renewal_under_way_as_one_that_failed(three):
    """Its caller was not cancelled: what it gets must not look like that."""
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    lease = await store.lease_grant(60.0)
    await store.lease_keepalive(lease)
    stream = store._keepalive._open
    assert stream is not None
    member = three.endpoints.index(stream[0].endpoint)
    three.signal(member, signal.SIGSTOP)
    try:
        renewing = asyncio.ensure_future(store.lease_keepalive(lease))
        await asyncio.sleep(0)  # it begins, and has taken the stream
        assert store._keepalive._open is None
        await store.close()
        with pytest.raises(StoreUnavailableError):
            async with asyncio.timeout(10):
                await renewing
    finally:
        three.signal(member, signal.SIGCONT)


async def test_closing_ends_a_watch_and_calls_under_way(three):
    store = await EtcdStore.open(EtcdConfig(three.endpoints))
    stream = store.watch("/w", await store.revision() + 1)
    waiting = asyncio.ensure_future(anext(stream))
    three.kill(0, 1)
    calling = asyncio.ensure_future(store.get("/k"))
    await asyncio.sleep(0.2)  # both are under way; without a majority neither can end by itself
    await store.close()
    for one in (waiting, calling):
        with pytest.raises(StoreUnavailableError):
            async with asyncio.timeout(10):
                await one
