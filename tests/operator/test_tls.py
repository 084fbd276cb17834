"""Certificates: what is planned, that they verify, and the whole operator making them."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from drystone_common.errors import DataError
from drystone_operator.apply import certificates, secrets
from drystone_operator.plan import tls
from drystone_operator.plan.actions import IssueCertificate
from drystone_operator.plan.tls import TlsSeen
from tests.operator.objects import NAMESPACE, cluster, custom
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


@pytest.mark.parametrize(
    "seen",
    [
        TlsSeen("p", HOSTS, WEEK_S),
        TlsSeen("p", HOSTS[1:], 1e9),
        TlsSeen("p", HOSTS, 1e9, issued=False),
        TlsSeen("p", HOSTS, 10 * WEEK_S, life_s=31 * WEEK_S),
    ],
)
def test_a_certificate_is_renewed_before_its_end_and_when_a_name_or_signature_is_missing(seen):
    assert planned(seen) == [
        "apply ConfigMap/c-ca",
        f"certificate for {len(HOSTS)} names into Secret/c-tls",
    ]


def test_a_short_life_is_not_renewed_at_every_look():
    assert planned(TlsSeen("p", HOSTS, 5 * 86400.0, life_s=6 * 86400.0)) == ["apply ConfigMap/c-ca"]


PREPARE = "next authority into Secret/c-ca"
PROMOTE = "next authority signs from Secret/c-ca"
DAY_S = 86400.0
MONTHS_S = 89 * DAY_S


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        (TlsSeen("a", HOSTS, MONTHS_S, used=0.6), None),
        (TlsSeen("a", HOSTS, MONTHS_S, used=0.7), PREPARE),
        (TlsSeen("a", HOSTS, MONTHS_S, asked=True), PREPARE),
        (TlsSeen("a", HOSTS, MONTHS_S, used=0.7, successor="b", successor_age_s=DAY_S / 2,
                 published="a\nb\n"), None),
        (TlsSeen("a", HOSTS, MONTHS_S, used=0.7, successor="b", successor_age_s=2 * DAY_S,
                 published="a\n"), None),
        (TlsSeen("a", HOSTS, MONTHS_S, used=0.7, successor="b", successor_age_s=2 * DAY_S,
                 published="a\nb\n"), PROMOTE),
        (TlsSeen("a", HOSTS, MONTHS_S, used=1.1, successor="b", published="a\n"), PROMOTE),
    ],
)  # fmt: skip
def test_the_next_authority_signs_when_clients_have_known_it_for_a_day(seen, step):
    assert planned(seen) == ["apply ConfigMap/c-ca", *([step] if step else [])]


def test_clients_trust_every_authority_of_which_a_certificate_may_be_in_use():
    seen = TlsSeen("a\n", successor="b", former="c\n")
    assert tls.trust(SECURE, seen)["data"] == {"ca.crt": "a\nb\nc\n"}


def test_a_person_adds_names_and_what_is_none_is_left_out():
    extra = tls.extra_names(" Storage.Example, 192.0.2.7,0:0::1, no name, -x, é, ,")
    assert extra == ("storage.example", "192.0.2.7", "::1")
    (_, issue) = tls.plan(SECURE, TlsSeen("p", HOSTS, MONTHS_S, extra=extra))
    assert isinstance(issue, IssueCertificate)
    assert set(issue.hosts) == {*HOSTS, "storage.example", "192.0.2.7"}
    have = TlsSeen("p", issue.hosts, MONTHS_S, extra=extra)
    assert planned(have) == ["apply ConfigMap/c-ca"]


def test_a_repeated_step_of_the_change_of_authorities_changes_nothing_more():
    made = secrets.authority("ours", NOW)
    data = {key: secrets.encode(text) for key, text in made.items()}
    assert secrets.promoted(data) == {}
    change = secrets.successor(data, "ours", NOW)
    assert secrets.successor({**data, **change}, "ours", NOW) == {}
    promoted = secrets.promoted({**data, **change})
    assert promoted["old.crt"] == data["ca.crt"]
    assert (promoted["ca.crt"], promoted["ca.key"]) == (change["next.crt"], change["next.key"])
    assert promoted["next.crt"] is promoted["next.key"] is None


def test_what_an_authority_signed_is_told_from_what_another_signed():
    one, two = certificates.authority("same", NOW), certificates.authority("same", NOW)
    leaf = certificates.issue(one, ("a",), NOW).certificate
    assert certificates.is_issued(leaf, one.certificate)
    assert not certificates.is_issued(leaf, two.certificate)
    assert not certificates.is_issued("", one.certificate)
    assert not certificates.is_issued(leaf, "")


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


async def test_a_person_gets_another_authority_and_no_client_is_shut_out(lab, monkeypatch):
    monkeypatch.setattr(tls, "OVERLAP_S", 0.0)

    def data(kind: str, name: str) -> dict[str, str]:
        return (lab.kube.get(kind, name, NAMESPACE) or {}).get("data") or {}

    async with lab.running():
        lab.kube.put("storageclusters", cluster())
        await lab.kube.until(lambda: data("secrets", "c-tls") and data("configmaps", "c-ca"))
        first = secrets.decode(data("secrets", "c-ca")["ca.crt"])
        ask = {"metadata": {"annotations": {"drystone.io/renew": "now"}}}
        lab.kube.change("secrets", "c-ca", NAMESPACE, ask)

        def renewed() -> bool:
            trusted = data("configmaps", "c-ca")["ca.crt"]
            signer = secrets.decode(data("secrets", "c-ca")["ca.crt"])
            leaf = secrets.decode(data("secrets", "c-tls")["tls.crt"])
            by = [pem for pem in (first, signer) if certificates.is_issued(leaf, pem)]
            assert all(pem.strip() in trusted for pem in by), "what is in use is always trusted"
            return signer != first and by == [signer]

        await lab.kube.until(renewed)
        await lab.kube.until(lambda: first.strip() in data("configmaps", "c-ca")["ca.crt"])
    kept = lab.kube.get("secrets", "c-ca", NAMESPACE)
    assert set(kept["data"]) == {"ca.crt", "ca.key", "old.crt"}
    assert "drystone.io/renew" not in kept["metadata"].get("annotations", {})


async def test_a_ca_that_is_none_is_told_on_the_storage_cluster(lab):
    for name, data in (("their-tokens", {"admin": "a" * 30}), ("their-ca", {"ca.crt": "nonsense"})):
        lab.kube.put("secrets", secrets.secret(name, NAMESPACE, data, {}))
    async with lab.running():
        lab.kube.put("storageclusters", custom("StorageCluster", "c", EXTERNAL))
        await lab.until_condition("storageclusters", "c", "Starting")
        lab.settle()
        said = await lab.until_condition("storageclusters", "c", "ManagerUnreachable")
    assert "holds no CA certificates" in said


async def test_the_operator_makes_authority_and_certificate_once(lab):
    async with lab.running():
        lab.kube.put("storageclusters", cluster())
        await lab.kube.until(lambda: lab.kube.get("secrets", "c-tls", NAMESPACE) is not None)
        made = lab.kube.get("secrets", "c-tls", NAMESPACE)["data"]
        rounds = len(lab.kube.requests)
        await lab.kube.until(lambda: len(lab.kube.requests) > rounds + 30)
        assert lab.kube.get("secrets", "c-tls", NAMESPACE)["data"] == made
        await lab.until_condition("storageclusters", "c", "Tls", "Secured")
    trust = lab.kube.get("configmaps", "c-ca", NAMESPACE)["data"]["ca.crt"]
    assert trust == secrets.decode(made["ca.crt"])  # one authority, nothing else
    known = certificates.read(secrets.decode(made["tls.crt"]))
    assert known is not None
    assert "c-manager-0.c-managers.drystone.svc" in known.hosts
    assert certificates.is_issued(secrets.decode(made["tls.crt"]), trust)
