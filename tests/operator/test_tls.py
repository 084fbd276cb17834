"""Certificates: what is planned, that they verify, and the whole operator making them."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from drystone_common.errors import DataError
from drystone_operator.apply import certificates, secrets
from drystone_operator.plan import tls
from drystone_operator.plan.tls import TlsSeen
from tests.operator.objects import NAMESPACE, cluster
from tests.operator.wanted import EXTERNAL, build

NOW = datetime(2026, 11, 21, tzinfo=UTC)
WEEK_S = 7 * 86400.0
SECURE = build(tls=True)
HOSTS = tls.hosts(SECURE)


def planned(seen: TlsSeen, wanted=SECURE) -> list[str]:
    return [str(action) for action in tls.plan(wanted, seen)]


def test_without_tls_nothing_is_made():
    assert planned(TlsSeen(), build()) == []
    assert planned(TlsSeen(), build(EXTERNAL, tls=True)) == []


def test_the_authority_comes_first_then_what_it_signs():
    assert planned(TlsSeen()) == ["create Secret/c-ca (authority)"]
    issue = f"certificate for {len(HOSTS)} names into Secret/c-tls"
    assert planned(TlsSeen("pem")) == ["apply ConfigMap/c-ca", issue]
    assert planned(TlsSeen("pem", HOSTS, 60 * 86400.0)) == ["apply ConfigMap/c-ca"]


@pytest.mark.parametrize("seen", [TlsSeen("p", HOSTS, WEEK_S), TlsSeen("p", HOSTS[1:], 1e9)])
def test_a_certificate_is_renewed_before_its_end_and_when_a_name_is_missing(seen):
    assert len(planned(seen)) == 2


def test_the_key_of_the_authority_is_in_no_object_that_clients_get():
    assert set(tls.trust(SECURE, "pem")["data"]) == {"ca.crt"}


def test_a_certificate_says_its_names_and_its_end():
    by = certificates.authority("ours", NOW)
    known = certificates.read(certificates.issue(by, ("a.svc", "10.0.0.1"), NOW).certificate)
    assert known is not None
    assert known.hosts == ("a.svc", "10.0.0.1")
    assert known.not_after == NOW + timedelta(days=certificates.LEAF_DAYS)
    assert certificates.read("no certificate") is None


def test_keys_are_never_shown():
    assert "PRIVATE" not in repr(certificates.authority("ours", NOW))


def test_a_damaged_authority_is_told_and_nothing_is_signed():
    with pytest.raises(DataError, match="damaged"):
        secrets.certificate({"ca.crt": "eA==", "ca.key": "eA=="}, ("a",), NOW)


async def test_a_client_that_trusts_the_authority_accepts_the_certificate(tmp_path):
    now = datetime.now(UTC)
    by = certificates.authority("ours", now)
    made = certificates.issue(by, ("localhost",), now)
    (tmp_path / "crt").write_text(made.certificate)
    (tmp_path / "key").write_text(made.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    serving = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=server)
    port = serving.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cadata=by.certificate)
    async with serving:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
        )
        writer.close()
        other = ssl.create_default_context(cadata=certificates.authority("x", now).certificate)
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=other, server_hostname="localhost")


async def test_the_operator_makes_authority_and_certificate_once(lab):
    async with lab.running(tls=True):
        lab.kube.put("storageclusters", cluster())
        await lab.kube.until(lambda: lab.kube.get("secrets", "c-tls", NAMESPACE) is not None)
        made = lab.kube.get("secrets", "c-tls", NAMESPACE)["data"]
        rounds = len(lab.kube.requests)
        await lab.kube.until(lambda: len(lab.kube.requests) > rounds + 30)
        assert lab.kube.get("secrets", "c-tls", NAMESPACE)["data"] == made
        await lab.until_condition("storageclusters", "c", "Tls", "Secured")
    trust = lab.kube.get("configmaps", "c-ca", NAMESPACE)["data"]["ca.crt"]
    assert trust == secrets.decode(made["ca.crt"])
    known = certificates.read(secrets.decode(made["tls.crt"]))
    assert known is not None
    assert "c-manager-0.c-managers.drystone.svc" in known.hosts
