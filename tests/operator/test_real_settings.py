"""Server and beacon of a node meet by the settings that the operator writes for each."""

from __future__ import annotations

from typing import Any

import pytest

from drystone_common.settings import Settings, load_settings
from drystone_operator.resources import config, daemons
from drystone_storaged.beacon.settings import BeaconSettings
from drystone_storaged.block.settings import BlockSettings
from drystone_storaged.server.settings import ServerSettings
from tests.operator.wanted import SQLITE, build

NODE = {"NODE_NAME": "n1", "HOST_IP": "10.0.0.1"}
DAEMONS: dict[str, type[Settings]] = {
    "server": ServerSettings,
    "beacon": BeaconSettings,
    "block": BlockSettings,
}


def expanded(text: str) -> str:
    """As kubelet expands a variable."""
    for name, value in NODE.items():
        text = text.replace(f"$({name})", value)
    return text


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    def load(component: str, **platform: bool) -> Any:
        wanted = build({**SQLITE, "disks": {"folders": ["/srv/disks"]}}, **platform)
        found = getattr(daemons, component)(wanted)
        container = found["spec"]["template"]["spec"]["containers"][0]
        for variable in container["env"]:
            if variable["name"].startswith("DRYSTONE_"):
                monkeypatch.setenv(variable["name"], expanded(variable["value"]))
        name = "n1.toml" if component == "server" else f"{component}.toml"
        files = config.settings_files(wanted)
        files |= config.nodes_map(wanted, {"n1": "rack1"})["data"]
        assert expanded(container["args"][-1]).endswith(f"/{name}")
        (tmp_path / name).write_text(files[name])
        return load_settings(DAEMONS[component], file=tmp_path / name)

    return load


def test_server_and_beacon_of_a_node_meet_in_its_run_dir(loaded):
    beacon, server = loaded("beacon"), loaded("server")
    assert (server.name, beacon.name) == ("n1", "n1")
    assert server.run_dir == beacon.run_dir == "/run/drystone/c"
    assert server.beacon_listen == ""
    assert beacon.listen == "10.0.0.1:8480"
    assert server.fault_set == "rack1"


def test_a_server_without_beacon_pods_has_its_beacon_inside(loaded):
    server = loaded("server", beacon_pods=False)
    assert (server.run_dir, server.beacon_listen) == ("", "10.0.0.1:8480")
