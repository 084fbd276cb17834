"""Commands reach the managers of a StorageCluster through the API server, with the least rights."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.routing import APIRoute

from drystone_cli.kube import target
from drystone_cli.kube.roles import needed, token_for
from drystone_common.errors import (
    ConflictError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from drystone_operator.apply import certificates
from drystone_storaged.manager.rest import cluster_routes, device_routes, guard, volumes
from tests.kubectl.cluster import (
    NAME,
    NAMESPACE,
    TOKENS,
    manager,
    pod,
    storage_cluster,
    tokens_secret,
)

TASKS: dict[str, Any] = {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("program", "given", "wanted"),
    [
        ("drystone", "status", "status"),
        ("/usr/bin/kubectl-drystone", "status", "--kube status"),
        ("kubectl-drystone", "drive list -n a -o json", "--kube -n a drive list -o json"),
        ("drystone", "status --context=b", "--context=b status"),
        ("drystone", "status --kube", "--kube status"),
        ("drystone", "x -- -n a", "x -- -n a"),
        ("drystone", "status -n", "-n status"),
    ],
)
def test_what_names_the_kubernetes_may_stand_anywhere(program, given, wanted):
    found = target.hoisted(program, given.split())
    assert found == wanted.split()
    assert target.meant(found) == (wanted.startswith("-"))


def test_a_plain_command_line_imports_nothing_of_kubernetes():
    code = "import drystone_cli.app, sys; print([m for m in sys.modules if 'kube' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "['drystone_cli.kube', 'drystone_cli.kube.target']"


def test_each_call_takes_the_role_that_the_managers_own_routes_want():
    roles = {guard.READ_ANYWHERE: "read", guard.READ: "read", guard.OPERATE: "operate"}
    roles[guard.ADMIN] = "admin"
    compared = 0
    for part in (volumes, cluster_routes, device_routes):
        for route in part.router.routes:
            assert isinstance(route, APIRoute)
            wanted = [roles[d] for d in route.dependencies if d in roles]
            path = re.sub(r"{[^}]*}", "x", route.path)
            for method in route.methods or ():
                assert [needed(method, path)] == wanted, (method, route.path)
                compared += 1
    assert compared > 30


def test_a_missing_token_is_replaced_by_the_next_more_privileged_one():
    assert token_for({"operate": "o", "admin": "a"}, "GET", "/v1/status") == "o"
    assert token_for({"read": "r", "operate": "o"}, "POST", "/v1/pools") == "o"
    assert token_for({}, "GET", "/v1/status") == ""


def test_a_command_reads_through_a_port_forward_with_the_token_of_its_role(world):
    volume = {"id": "1", "name": "db", "size": 4096, "pool": "default"}
    pool = {"name": "default", "capacity": 1 << 30}
    answers = {
        "GET /v1/tasks": TASKS, "POST /v1/volumes": volume, "GET /v1/pools/default": pool,
        "DELETE /v1/pools/p": {},
    }  # fmt: skip
    with manager(answers=answers) as served:
        world.kube.put("pods", pod("manager", "a"))
        world.pod_answers(f"{NAME}-manager-0", served.address)
        found = world.run("task", "list", "-o", "json", "-n", NAMESPACE)
        assert json.loads(found.stdout) == {"items": []}
        assert world.run("volume", "create", "db", "--size", "4096").exit_code == 0
        assert world.run("pool", "delete", "p").exit_code == 0
    used = {(method, path): token for method, path, token in served.asked}
    assert used["GET", "/v1/tasks"] == TOKENS["read"]
    assert used["POST", "/v1/volumes"] == TOKENS["operate"]
    assert used["DELETE", "/v1/pools/p"] == TOKENS["admin"]


def test_of_several_managers_the_leader_answers_and_one_without_an_answer_is_left_out(world):
    with (
        manager(leads=False) as standby,
        manager(answers={"GET /v1/tasks": TASKS}) as leader,
    ):
        for number in range(3):
            world.kube.put("pods", pod("manager", "a", number))
        world.kube.put("pods", pod("manager", "a", 3, phase="Pending"))
        world.pod_answers(f"{NAME}-manager-0", standby.address)
        world.pod_answers(f"{NAME}-manager-1", leader.address)
        assert world.run("task", "list").exit_code == 0
    forwarded = [argv[-2] for argv in world.called() if argv[0] == "port-forward"]
    assert sorted(forwarded) == [f"pod/{NAME}-manager-{n}" for n in range(3)]


def test_managers_with_certificates_are_verified_with_the_authority_of_the_cluster(
    world, tmp_path, monkeypatch
):
    now = datetime.now(UTC)
    authority = certificates.authority("ours", now)
    pair = certificates.issue(authority, ["127.0.0.1"], now)
    (tmp_path / "crt").write_text(pair.certificate)
    (tmp_path / "key").write_text(pair.key)
    files = (str(tmp_path / "crt"), str(tmp_path / "key"))
    config = {"metadata": {"name": f"{NAME}-ca", "namespace": NAMESPACE}}
    with manager(tls=files, answers={"GET /v1/tasks": TASKS}) as served:
        world.kube.put("pods", pod("manager", "a"))
        world.pod_answers(f"{NAME}-manager-0", served.address)
        world.kube.put("configmaps", {**config, "data": {"ca.crt": authority.certificate}})
        assert world.run("task", "list").exit_code == 0
        monkeypatch.setenv("DRYSTONE_CA_FILE", str(tmp_path / "ca"))
        (tmp_path / "ca").write_text(authority.certificate)
        other = certificates.authority("foreign", now).certificate
        world.kube.put("configmaps", {**config, "data": {"ca.crt": other}})
        assert world.run("task", "list").exit_code == 0, "the environment's file wins"
        monkeypatch.delenv("DRYSTONE_CA_FILE")
        refused = world.run("task", "list")
        assert isinstance(refused.exception, UnavailableError)
        assert len(served.asked) == 2, "no token goes to who cannot prove who it is"


def test_a_cluster_elsewhere_is_asked_directly_with_the_secret_that_is_named(world):
    with manager(answers={"GET /v1/tasks": TASKS}) as served:
        endpoints = [f"http://{served.address}"]
        external = {"endpoints": endpoints, "tokenSecretRef": {"name": "elsewhere"}}
        world.kube.put("storageclusters", storage_cluster(external=external))
        secret = tokens_secret(operate="o", admin="a")
        secret["metadata"]["name"] = "elsewhere"
        world.kube.put("secrets", secret)
        assert world.run("task", "list").exit_code == 0
    assert served.asked == [("GET", "/v1/tasks", "o")]


def test_a_token_of_the_environment_wins_and_the_secret_is_not_read(world, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("mine\n")
    monkeypatch.setenv("DRYSTONE_TOKEN_FILE", str(tmp_path / "token"))
    with manager(answers={"GET /v1/tasks": TASKS}) as served:
        world.kube.put("pods", pod("manager", "a"))
        world.pod_answers(f"{NAME}-manager-0", served.address)
        assert world.run("task", "list").exit_code == 0
    assert served.asked == [("GET", "/v1/tasks", "mine")]
    assert not [path for _, path in world.kube.requests if "secrets" in path]


def test_the_usual_namespace_is_looked_at_when_none_was_named(world):
    world.world["namespace"] = "default"
    world.write()
    assert isinstance(world.run("status", "-n", "default").exception, NotFoundError)
    body = storage_cluster()
    body["metadata"]["namespace"] = "drystone"
    world.kube.put("storageclusters", body)
    error = world.run("status").exception
    assert isinstance(error, NotFoundError)
    assert "drystone/main-tokens" in error.message


def test_of_two_storage_clusters_the_one_called_duplicate_is_left_out(world):
    second = storage_cluster()
    second["metadata"]["name"] = "second"
    world.kube.put("storageclusters", second)
    assert isinstance(world.run("status").exception, ConflictError)
    reason = {"conditions": [{"type": "Ready", "status": "False", "reason": "Duplicate"}]}
    world.kube.change("storageclusters", "second", NAMESPACE, {"status": reason})
    error = world.run("status").exception
    assert isinstance(error, UnavailableError)
    assert error.code == "no_manager"


def test_a_refused_token_and_a_missing_kubectl_are_told_with_what_to_do(world, monkeypatch):
    with manager(valid=("other",)) as served:
        world.kube.put("pods", pod("manager", "a"))
        world.pod_answers(f"{NAME}-manager-0", served.address)
        assert isinstance(world.run("status").exception, UnauthenticatedError)
    monkeypatch.setenv("PATH", "/nowhere")
    error = world.run("status").exception
    assert isinstance(error, NotFoundError)
    assert error.code == "no_kubectl"


def test_a_volume_is_taken_off_a_lost_node_and_attaching_names_no_node_of_this_machine(world):
    volume = {"id": "1", "name": "db", "publications": [{"node": "block-b", "mode": "rw"}],
              "attachments": [{"node": "block-b"}]}  # fmt: skip
    answers = {"GET /v1/volumes/db": volume, "POST /v1/volumes/1/unpublish": volume}
    with manager(answers=answers) as served:
        world.kube.put("pods", pod("manager", "a"))
        world.pod_answers(f"{NAME}-manager-0", served.address)
        refused = world.run("volume", "detach", "db", "--node", "block-b")
        assert isinstance(refused.exception, NotFoundError)
        done = world.run("volume", "detach", "db", "--node", "block-b", "--force", "-o", "json")
        assert json.loads(done.stdout) == {"volume": "db", "detached": ["block-b"]}
        attached = world.run("volume", "attach", "db")
        assert isinstance(attached.exception, NotFoundError)


def test_no_kubectl_stays_behind_whether_a_command_ends_or_is_ended(world):
    with manager(answers={"GET /v1/tasks": TASKS}, slow="/v1/pools") as served:
        world.kube.put("pods", pod("manager", "a"))
        world.pod_answers(f"{NAME}-manager-0", served.address)
        assert world.run("task", "list").exit_code == 0
        assert world.running() == []
        argv = [sys.executable, "-m", "drystone_cli", "--kube", "pool", "list"]
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as child:
            until = time.monotonic() + 60
            while not [path for _, path, _ in served.asked if path == "/v1/pools"]:
                assert time.monotonic() < until, "the manager was never asked"
                time.sleep(0.05)
            assert len(world.running()) == 2, "a proxy and a port-forward"
            child.terminate()
            assert child.wait(30) == 128 + signal.SIGTERM
        assert world.running() == []
