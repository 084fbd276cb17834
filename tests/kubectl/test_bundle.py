"""`drystone bundle`: everything is in it, no secret is, and what fails holds nothing up."""

from __future__ import annotations

import base64
import json
import secrets
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drystone_cli.app import app
from drystone_cli.bundle.archive import Archive
from drystone_cli.bundle.local_parts import newer
from drystone_cli.bundle.parts import parse_since
from drystone_cli.bundle.redact import Redactor
from drystone_common.errors import AlreadyExistsError, InvalidArgumentError
from tests.kubectl import cluster as made
from tests.kubectl.cluster import NAME, NAMESPACE, TOKENS, manager

JOIN = secrets.token_urlsafe(24) + "aA1"
MASTER = secrets.token_hex(32)
PASSWORD = "correct-horse-battery"
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\n-----END PRIVATE KEY-----\n"
EVERYTHING = [*TOKENS.values(), JOIN, MASTER, PASSWORD, "MIGHAgEAMBMGByqGSM49AgEG"]

LEAKY = (
    f"read {TOKENS['admin']} {TOKENS['operate']} {TOKENS['read']}\njoin with {JOIN}\n"
    f'{{"event": "x", "password": "{PASSWORD}", "master": "{MASTER}"}}\n{PEM}'
)
PAGE: dict[str, Any] = {"items": [], "next_cursor": None}


def content(file: Path) -> dict[str, str]:
    with tarfile.open(file) as tar:
        found = {}
        for member in tar.getmembers():
            assert member.isfile()
            stream = tar.extractfile(member)
            assert stream is not None
            found[member.name.partition("/")[2]] = stream.read().decode()
    return found


def no_secret(parts: dict[str, str]) -> None:
    for name, text in parts.items():
        for value in EVERYTHING:
            for form in (value, base64.b64encode(value.encode()).decode().rstrip("=")):
                assert form not in text, f"{name} holds {form}"


@pytest.fixture
def leaky(world):
    """Secrets stand in every place that a bundle looks at."""
    server = made.pod("server", "a", containerStatuses=[{"name": "server", "restartCount": 2}])
    container = server["spec"]["containers"][0]
    container["env"] = [{"name": "DRYSTONE_PASSWORD", "value": PASSWORD}]
    container["args"] = [f"--token={JOIN}"]
    container["ports"] = [{"name": "metrics", "containerPort": 8491}]
    server["metadata"]["annotations"] = {"note": LEAKY}
    server["metadata"]["managedFields"] = [{"manager": "x"}]
    kube = world.kube
    kube.put("pods", server)
    kube.put("pods", made.pod("manager", "a"))
    stranger = made.pod("web", "a")
    stranger["metadata"]["labels"] = {"app": "web"}
    kube.put("pods", stranger)
    labels = {"drystone.io/cluster": NAME}
    config = {"metadata": {"name": f"{NAME}-settings", "namespace": NAMESPACE, "labels": labels}}
    kube.put("configmaps", {**config, "data": {"manager.toml": f'etcd_password = "{PASSWORD}"'}})
    kube.put("nodes", {"metadata": {"name": "a", "annotations": {"k": LEAKY}}})
    event = {"metadata": {"name": "e", "namespace": NAMESPACE}, "message": LEAKY}
    kube.put("events", event)
    kube.put("persistentvolumes", {"metadata": {"name": "pv-1"},
                                   "spec": {"csi": {"driver": "csi.drystone.io"}}})  # fmt: skip
    kube.put("persistentvolumes", {"metadata": {"name": "other"}, "spec": {"csi": {"driver": "x"}}})
    for name in ("mine", "theirs"):
        bound = {"volumeName": "pv-1" if name == "mine" else "other"}
        place = {"name": name, "namespace": "apps"}
        kube.put("persistentvolumeclaims", {"metadata": place, "spec": bound})
    kube.logs |= {f"{NAME}-server-0/server/": LEAKY, f"{NAME}-server-0/server/true": LEAKY}
    kube.logs[f"{NAME}-manager-0/manager/"] = LEAKY
    kube.metrics[f"{NAME}-server-0:8491"] = f'x{{token="{JOIN}"}} 1\n'
    return world


def answers() -> dict[str, Any]:
    found = {f"GET /v1/{name}": PAGE for name in ("nodes", "drives", "pools", "tasks")}
    found["GET /v1/volumes"] = {**PAGE, "items": [{"name": "db", "attributes": {"note": LEAKY}}]}
    return found | {f"GET /v1/{name}": {"text": LEAKY} for name in ("cluster", "status", "map")}


def test_a_bundle_of_a_kubernetes_holds_everything_and_no_secret(leaky, tmp_path):
    file = tmp_path / "b.tar.gz"
    with manager(answers=answers()) as served:
        leaky.pod_answers(f"{NAME}-manager-0", served.address)
        result = leaky.run("bundle", "--file", str(file), "--since", "2h", "-o", "json")
    assert result.exit_code == 0, result.stderr
    parts = content(file)
    no_secret(parts)
    assert file.stat().st_mode & 0o777 == 0o600
    assert set(parts) == set(json.loads(result.stdout)["parts"])
    for name in ("pods", "nodes", "events", "storageclusters", "configmaps", "persistentvolumes"):
        assert "items" in parts[f"kubernetes/{name}.yaml"]
    for name in ("status", "map", "nodes", "drives", "pools", "volumes", "tasks", "devices"):
        assert f"rest/{name}.json" in parts
    assert "[redacted]" in parts[f"logs/{NAME}-server-0/server.log"]
    assert f"logs/{NAME}-server-0/server.previous.log" in parts
    assert f"logs/{NAME}-manager-0/manager.previous.log" not in parts, "it never restarted"
    assert not [name for name in parts if "web" in name], "not a pod of ours"
    assert "x{" in parts[f"metrics/{NAME}-server-0.server.txt"]
    assert json.loads(parts["doctor.json"])["findings"]
    assert "mine" in parts["kubernetes/claims.yaml"]
    assert "theirs" not in parts["kubernetes/claims.yaml"]
    assert "other" not in parts["kubernetes/persistentvolumes.yaml"]
    assert "managedFields" not in parts["kubernetes/pods.yaml"]


def test_only_the_secret_of_the_tokens_is_read_and_logs_are_bounded(leaky, tmp_path):
    leaky.run("bundle", "--file", str(tmp_path / "b.tar.gz"), "--since", "2h")
    read = [path for _, path in leaky.kube.requests if "/secrets" in path]
    assert set(read) == {f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}-tokens"}
    logs = [q for q in leaky.kube.queries if "/log?" in q]
    assert len(logs) == 3
    assert all("tailLines=20000" in q and "limitBytes=" in q for q in logs)
    assert [q for q in logs if "sinceSeconds=7200" in q]
    assert not [p for p in leaky.kube.all("pods") if "doctor" in p["metadata"]["name"]]


def test_what_cannot_be_had_is_listed_and_the_rest_is_there(leaky, tmp_path):
    del leaky.kube.logs[f"{NAME}-server-0/server/"]
    leaky.kube.metrics.clear()
    leaky.kube.put("secrets", {"metadata": {"name": f"{NAME}-tokens", "namespace": NAMESPACE}})
    result = leaky.run("bundle", "--file", str(tmp_path / "b.tar.gz"))
    assert result.exit_code == 0
    parts = content(tmp_path / "b.tar.gz")
    for what in ("rest:", f"logs/{NAME}-server-0/server.log:", f"metrics/{NAME}-server-0"):
        assert what in parts["errors.txt"]
    assert f"logs/{NAME}-manager-0/manager.log" in parts
    last = result.stdout.splitlines()[-1]
    assert str(tmp_path / "b.tar.gz") in last


def test_a_kubernetes_without_a_storage_cluster_still_gives_a_bundle(world, tmp_path):
    world.kube.objects.clear()
    result = world.run("bundle", "--file", str(tmp_path / "b.tar.gz"))
    assert result.exit_code == 0
    assert "no_storage" not in result.stdout
    assert "no StorageCluster" in content(tmp_path / "b.tar.gz")["errors.txt"]


def test_a_bundle_of_a_folder_has_its_logs_and_settings_without_its_secrets(tmp_path, monkeypatch):
    root = tmp_path / "cluster"
    for name in ("conf", "log", "state/node-1"):
        (root / name).mkdir(parents=True)
    lines = "".join(f"{role} {token}\n" for role, token in TOKENS.items())
    (root / "tokens").write_text(lines)
    (root / "token").write_text(TOKENS["admin"])
    (root / "master.key").write_text(MASTER)
    (root / "conf/node-1.join").write_text(JOIN)
    (root / "conf/node-1.toml").write_text(f'name = "node-1"\netcd_password = "{PASSWORD}"\n')
    credential = {"credential": "plain-credential-1"}
    (root / "state/node-1/identity.json").write_text(json.dumps(credential))
    (root / "log/node-1-server.log").write_text(LEAKY + "held plain-credential-1\n")
    (root / "cluster.json").write_text("{}")
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "more.log").write_text(LEAKY)
    monkeypatch.setenv("DRYSTONE_DIR", str(root))
    monkeypatch.delenv("DRYSTONE_URL", raising=False)
    file = tmp_path / "b.tar.gz"
    result = CliRunner().invoke(app, ["bundle", "--file", str(file), "--log", str(extra)])
    assert result.exit_code == 0, result.exception
    parts = content(file)
    no_secret(parts)
    assert "plain-credential-1" not in parts["logs/node-1-server.log"]
    assert 'name = "node-1"' in parts["local/conf/node-1.toml"]
    assert "state/node-1/identity.json" in parts["local/files.txt"], "its name, not its content"
    assert not [name for name in parts if name.endswith(("tokens", "token", ".key", ".join"))]
    assert f"logs{extra}/more.log" in parts
    assert "rest:" in parts["errors.txt"]
    assert "doctor.json" in parts


def broken_off(file: Path) -> None:
    with Archive(file, "b", Redactor(), 0.0) as archive:
        archive.add("x.json", {"a": 1})
        raise KeyboardInterrupt


def test_a_file_that_is_there_is_not_written_over_and_a_broken_bundle_leaves_nothing(tmp_path):
    file = tmp_path / "b.tar.gz"
    with pytest.raises(KeyboardInterrupt):
        broken_off(file)
    assert list(tmp_path.iterdir()) == []
    with Archive(file, "b", Redactor(), 0.0) as archive:
        archive.add("../../x.json", {"a": 1})
        archive.failed("y", "because")
    assert content(file) == {"x.json": '{\n "a": 1\n}\n', "errors.txt": "y: because\n"}
    with pytest.raises(AlreadyExistsError):
        Archive(file, "b", Redactor(), 0.0)


@pytest.mark.parametrize(
    ("text", "wanted"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400)]
)
def test_a_length_of_time_has_a_unit(text, wanted):
    assert parse_since(text) == wanted
    for wrong in ("", "2", "0h", "-1h", "2 weeks"):
        with pytest.raises(InvalidArgumentError):
            parse_since(wrong)


def test_older_lines_of_a_log_are_left_out_with_the_trace_that_belongs_to_them():
    now = datetime.now(UTC)
    old, new = (json.dumps({"timestamp": (now - timedelta(hours=h)).isoformat()}) for h in (3, 1))
    text = f"{old}\nTraceback of old\n{new}\nTraceback of new\n"
    since = (now - timedelta(hours=2)).timestamp()
    assert newer(text, since) == f"{new}\nTraceback of new\n"
    assert newer("no stamps\n", since) == "no stamps\n"
