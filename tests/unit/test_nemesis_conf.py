"""Settings of a run's processes are what the processes take, and name each other rightly."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from drystone_storaged.beacon.settings import BeaconSettings
from drystone_storaged.block.settings import BlockSettings
from drystone_storaged.manager.settings import ManagerSettings
from drystone_storaged.server.settings import ServerSettings
from tests.e2e.nemesis import conf
from tests.e2e.nemesis.settings import Lab, address, processes

MODELS: dict[str, type[BaseModel]] = {
    "manager": ManagerSettings, "server": ServerSettings,
    "beacon": BeaconSettings, "block": BlockSettings,
}  # fmt: skip
LABS = [Lab(Path("/lab")), Lab(Path("/lab"), servers=5, blocks=3)]


@pytest.mark.parametrize("lab", LABS)
def test_every_process_takes_its_settings(lab):
    texts = conf.texts(lab)
    assert list(texts) == list(processes(lab))
    for process, text in texts.items():
        if conf.role_of(process) != "etcd":
            MODELS[conf.role_of(process)].model_validate(tomllib.loads(text))


@pytest.mark.parametrize("lab", LABS)
def test_nobody_listens_where_another_does_or_at_anothers_address(lab):
    taken = []
    for process, group in processes(lab).items():
        text = conf.texts(lab)[process]
        if conf.role_of(process) == "etcd":
            settings = json.loads(text)
            urls = [settings["listen-client-urls"], settings["listen-peer-urls"]]
            found = [url.removeprefix("http://") for url in urls]
        else:
            settings = tomllib.loads(text)
            found = [value for key, value in settings.items() if key.endswith("listen")
                     and isinstance(value, str)]  # fmt: skip
            found += [drive["listen"] for drive in settings.get("drives", [])]
        assert {place.split(":")[0] for place in found} == {address(group)}
        taken += found
    assert len(taken) == len(set(taken))


def test_a_beacon_and_its_server_share_a_name_and_a_lease_page_and_nothing_they_keep():
    lab = LABS[0]
    server, beacon = (tomllib.loads(conf.texts(lab)[name]) for name in ("server-n1", "beacon-n1"))
    assert (server["name"], server["run_dir"]) == (beacon["name"], beacon["run_dir"])
    assert server["state_dir"] != beacon["state_dir"]
    assert server["join_token_file"] != beacon["join_token_file"]


def test_members_of_etcd_know_each_other_and_managers_know_them():
    lab = LABS[1]
    texts = conf.texts(lab)
    member, manager = json.loads(texts["etcd-n2"]), tomllib.loads(texts["manager-n1"])
    assert "etcd-n2=http://10.199.0.22:2380" in member["initial-cluster"].split(",")
    assert manager["etcd_endpoints"] == ["10.199.0.21:2379", "10.199.0.22:2379", "10.199.0.23:2379"]


def test_sockets_have_short_paths_in_any_folder():
    lab = Lab(Path("/") / ("x" * 200))
    assert len(str(conf.socket_path(lab, "c1"))) < 100
    assert len(str(conf.run_dir(lab, "n1") / "some.sock")) < 100
