"""What the operator writes for a process is what that process reads: by the real settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drystone_cli.csi_process import CsiSettings, manager_urls
from drystone_common.settings import Settings, load_settings
from drystone_operator import names
from drystone_operator.plan import tls
from drystone_operator.plan.tls import TlsSeen
from drystone_operator.resources.base import Build
from drystone_operator.resources.children import children
from drystone_storaged.agent.process import DaemonSettings
from drystone_storaged.agent.trust import require_https
from drystone_storaged.beacon.settings import BeaconSettings
from drystone_storaged.block.settings import BlockSettings
from drystone_storaged.fuse.settings import FuseHelperSettings
from drystone_storaged.manager.app import check_listen
from drystone_storaged.manager.settings import ManagerSettings
from drystone_storaged.server.settings import ServerSettings
from tests.operator.test_resources import SPECS
from tests.operator.wanted import build

CLASSES: dict[str, type[Settings]] = {
    "manager": ManagerSettings,
    "server": ServerSettings,
    "block": BlockSettings,
    "csi": CsiSettings,
    "beacon": BeaconSettings,
    "fuse-helper": FuseHelperSettings,
}

FIELDS = {
    "spec.nodeName": "n1",
    "status.hostIP": "10.0.0.1",
    "status.podIP": "10.1.0.1",
    "metadata.name": "c-manager-0",
}
KEYS = {
    "c-ca": {"ca.crt"},
    "c-tls": {"tls.crt", "tls.key", "ca.crt"},
    "c-master": {"master.key"},
    "c-tokens": {"tokens", "admin", "operate", "read"},
    "c-join": {"server.n1", "beacon.n1"},
    "c-join-block": {"block.n1"},
    "their-tokens": {"operate"},
    "their-ca": {"ca.crt"},
    "etcd-tls": {"ca.crt", "tls.crt", "tls.key"},
    "etcd-password": {"username", "password"},
}
"""What each Secret and ConfigMap has; the last four are a person's."""

CASES = [(spec, secure) for spec in SPECS for secure in (True, False)]


def wanted(spec: str, secure: bool) -> Build:
    return build(SPECS[spec], tls=secure, beacon_pods=True)


def containers(made: Build) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every container of ours that reads settings, with its pod."""
    for found in children(made, {"n1": "rack1"}):
        pod = found.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", []):
            if "--config" in container.get("args", []):
                yield container, pod


def variables(container: dict[str, Any]) -> dict[str, str]:
    """As kubelet gives them."""
    found: dict[str, str] = {}
    for one in container["env"]:
        source = one.get("valueFrom", {})
        if "fieldRef" in source:
            value = FIELDS[source["fieldRef"]["fieldPath"]]
        elif "secretKeyRef" in source:
            assert source["secretKeyRef"]["key"] in KEYS[source["secretKeyRef"]["name"]]
            value = "from a secret"
        else:
            value = expanded(one["value"], found)
        found[one["name"]] = value
    return found


def expanded(text: str, known: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda m: known[m.group(1)], text)


def files(made: Build, container: dict[str, Any], pod: dict[str, Any]) -> dict[str, str]:
    """Every file that a Secret or ConfigMap brings into the container, with what is known of it."""
    maps = {o["metadata"]["name"]: o.get("data", {}) for o in children(made, {"n1": "rack1"})}
    volumes = {v["name"]: v for v in pod["volumes"]}
    found: dict[str, str] = {}
    for mount in container["volumeMounts"]:
        volume = volumes.get(mount["name"], {})
        source = volume.get("configMap", {}).get("name") or volume.get("secret", {}).get(
            "secretName"
        )
        if source:
            assert "subPath" not in mount, "a mounted file never changes"
            content = maps.get(source) or dict.fromkeys(KEYS[source], "")
            found |= {f"{mount['mountPath']}/{key}": text for key, text in content.items()}
    return found


def loaded(
    made: Build, container: dict[str, Any], pod: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> tuple[Settings, dict[str, str]]:
    known = variables(container)
    there = files(made, container, pod)
    args = [expanded(arg, known) for arg in container["args"]]
    (tmp_path / "file.toml").write_text(there[args[args.index("--config") + 1]])
    for name, value in known.items():
        if name.startswith("DRYSTONE_"):
            monkeypatch.setenv(name, value)
    settings = load_settings(CLASSES[args[0]], file=tmp_path / "file.toml")
    for name in known:
        monkeypatch.delenv(name, raising=False)
    return settings, there


@pytest.mark.parametrize(("spec", "secure"), CASES)
def test_every_process_takes_the_settings_that_the_operator_writes(
    spec, secure, tmp_path, monkeypatch
):
    made, seen = wanted(spec, secure), set()
    for container, pod in containers(made):
        settings, there = loaded(made, container, pod, tmp_path, monkeypatch)
        seen.add(type(settings))
        for name, value in settings.model_dump().items():
            if name.endswith("_file") and value:
                assert str(value) in there, f"{container['name']}: {name} is in no volume"
    consuming: set[type[Settings]] = {BlockSettings, CsiSettings, FuseHelperSettings}
    assert seen == (consuming if made.spec.is_external else set(CLASSES.values()))


@pytest.mark.parametrize(("spec", "secure"), CASES)
def test_with_tls_everybody_verifies_and_no_address_is_in_clear_text(
    spec, secure, tmp_path, monkeypatch
):
    made = wanted(spec, secure)
    for container, pod in containers(made):
        settings, _ = loaded(made, container, pod, tmp_path, monkeypatch)
        if isinstance(settings, ManagerSettings):
            check_listen(settings)
            assert (settings.tls, settings.insecure_listen) == (secure, not secure)
        elif isinstance(settings, FuseHelperSettings):
            continue  # it speaks to the block daemon of its node, by a socket
        elif secure or made.spec.is_external:
            assert isinstance(settings, DaemonSettings | CsiSettings)
            assert settings.tls_ca_file == f"{names.TLS_DIR}/ca.crt"
            if isinstance(settings, CsiSettings):
                require_https(manager_urls(settings))


@pytest.mark.parametrize("pods", [True, False])
def test_a_server_meets_its_nodes_beacon_in_the_run_dir_or_has_it_inside(
    pods, tmp_path, monkeypatch
):
    made = build(SPECS["sqlite"], beacon_pods=pods)
    found = [loaded(made, *each, tmp_path, monkeypatch)[0] for each in containers(made)]
    (server,) = (s for s in found if isinstance(s, ServerSettings))
    beacons = [s for s in found if isinstance(s, BeaconSettings)]
    assert (server.name, server.fault_set) == ("n1", "rack1")
    if pods:
        (beacon,) = beacons
        assert (beacon.name, beacon.listen) == ("n1", "10.0.0.1:8480")
        assert (server.run_dir, server.beacon_listen) == (beacon.run_dir, "")
        assert server.run_dir == "/run/drystone/c"
    else:
        assert beacons == []
        assert (server.run_dir, server.beacon_listen) == ("", "10.0.0.1:8480")


@pytest.mark.parametrize("spec", ["sqlite", "etcd"])
def test_every_address_that_a_process_is_given_is_a_name_of_the_certificate(spec):
    made = wanted(spec, True)
    known = set(tls.hosts(made))
    for address in made.control_addresses:
        assert address.rpartition(":")[0] in known
    for url in made.rest_urls:
        assert url.removeprefix("https://").rpartition(":")[0] in known
    for name in ("c-manager", "c-managers", "c-manager-0.c-managers"):
        for end in ("", ".ns", ".ns.svc", ".ns.svc.cluster.local"):
            assert f"{name}{end}" in known
    assert {"localhost", "127.0.0.1", "::1"} <= known


def test_what_clients_verify_with_is_a_config_map_without_a_key():
    assert set(tls.trust(wanted("etcd", True), TlsSeen("pem"))["data"]) == KEYS["c-ca"]
