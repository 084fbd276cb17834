"""Tokens that etcd refuses because its users and roles changed since."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import grpc
import httpx
import pytest

from drystone_storaged.cluster.etcd_client import EtcdClient, EtcdConfig, Member
from drystone_storaged.cluster.etcd_errors import is_bad_token, translated
from drystone_storaged.cluster.store import Put, StoreLimitError, StoreUnavailableError
from drystone_storaged.cluster.store_etcd import EtcdStore
from tests.storaged.etcd_server import Etcd, openssl
from tests.storaged.metadata_conformance import take


def _admin(etcd: Etcd, path: str, token: str = "", **body: str) -> dict[str, str]:
    headers = {"Authorization": token} if token else {}
    answer = httpx.post(
        f"http://{etcd.endpoints[0]}/v3/auth/{path}", json=body, headers=headers, timeout=10
    )
    answer.raise_for_status()
    return answer.json()


@pytest.fixture
def signed(tmp_path):
    """An etcd whose tokens hold the revision of its users."""
    openssl(tmp_path, "genrsa", "-out", "key.pem", "2048")
    openssl(tmp_path, "rsa", "-in", "key.pem", "-pubout", "-out", "pub.pem")
    kind = f"jwt,pub-key={tmp_path}/pub.pem,priv-key={tmp_path}/key.pem,sign-method=RS256,ttl=10m"
    etcd = Etcd(tmp_path, extra=["--auth-token", kind])
    etcd.start()
    _admin(etcd, "user/add", name="root", password="secret")
    _admin(etcd, "user/grant", user="root", role="root")
    _admin(etcd, "enable")
    yield etcd
    etcd.kill()


async def test_a_change_of_etcds_users_leads_to_a_new_login_unnoticed(signed, tmp_path):
    password = tmp_path / "password"
    password.write_text("secret")
    store = await EtcdStore.open(EtcdConfig(signed.endpoints, user="root", password_file=password))
    stream = store.watch("/k", await store.revision() + 1)
    for name in ("one", "two"):
        token = _admin(signed, "authenticate", name="root", password="secret")["token"]
        _admin(signed, "user/add", token, name=name, password="x")
        # Writes go out once: this one was refused before anything was done, so it may go again.
        await store.txn([], [Put("/k", name.encode())])
        assert await take(stream, 1) == [("/k", name.encode())]
        assert await store.revision() > 0
    await stream.aclose()
    await store.close()


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def test_an_outdated_token_is_no_fault_of_the_request():
    old = _error(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old")
    assert is_bad_token(old)
    assert isinstance(translated(old), StoreUnavailableError)
    other = _error(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations")
    assert not is_bad_token(other)
    assert isinstance(translated(other), StoreLimitError)


@pytest.fixture
async def client(tmp_path):
    """A client with a login and one member, to which nothing is sent."""
    made = EtcdClient(EtcdConfig(("127.0.0.1:1",), user="root", password_file=tmp_path / "word"))
    yield made
    await made.close()


async def test_who_waits_for_anothers_login_waits_no_longer_than_its_call(client):
    member, now = client._members[0], asyncio.get_running_loop().time()
    async with client._login:
        with pytest.raises(StoreUnavailableError, match="in time"):
            await client._metadata(member, now + 0.05)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
async def test_a_password_that_cannot_be_read_is_a_store_that_is_away(client, tmp_path, content):
    if content is not None:
        (tmp_path / "word").write_bytes(content)
    until = asyncio.get_running_loop().time() + 5.0
    with pytest.raises(StoreUnavailableError, match="password") as caught:
        await client._metadata(client._members[0], until)
    assert "0xff" not in str(caught.value)


async def test_a_login_that_fails_at_the_start_of_a_stream_moves_on_to_another_member(
    client, tmp_path, monkeypatch
):
    (tmp_path / "word").write_text("secret")

    async def silent(_request: object, **_limit: float) -> None:
        raise _error(grpc.StatusCode.DEADLINE_EXCEEDED, "nothing came")

    member = cast("Member", SimpleNamespace(auth=SimpleNamespace(Authenticate=silent)))
    left: list[Any] = []

    async def pick() -> Member:
        return member

    monkeypatch.setattr(client, "_pick", pick)
    monkeypatch.setattr(client, "failed", left.append)
    with pytest.raises(StoreUnavailableError):
        await client.stream_to()
    assert left == [member]
