"""Tokens that etcd refuses because its users and roles changed since."""

from __future__ import annotations

import subprocess
from pathlib import Path

import grpc
import httpx
import pytest

from drystone_storaged.cluster.etcd_client import EtcdConfig
from drystone_storaged.cluster.etcd_errors import is_bad_token, translated
from drystone_storaged.cluster.store import Put, StoreLimitError, StoreUnavailableError
from drystone_storaged.cluster.store_etcd import EtcdStore
from tests.storaged.etcd_server import Etcd
from tests.storaged.metadata_conformance import take


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


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
    _openssl(tmp_path, "genrsa", "-out", "key.pem", "2048")
    _openssl(tmp_path, "rsa", "-in", "key.pem", "-pubout", "-out", "pub.pem")
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
