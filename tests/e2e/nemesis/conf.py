"""Settings of every process of a run, as text: what lies where, and who listens at which address.

Names of nodes are those of their groups: the server and the beacon of ``n1`` are node ``n1``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from drystone_common.toml import Value, toml_text
from tests.e2e.nemesis.settings import BEACON_PORT, Lab, address, processes

DRIVE_BYTES: Final = 2 << 30  # a sparse file; the volumes of a long run fill a quarter of it
ETCD_CLIENT: Final = 2379
ETCD_PEER: Final = 2380
REST: Final = 8460
CONTROL: Final = 8461
DRIVE: Final = 8470
METRICS: Final = {"manager": 8490, "server": 8491, "beacon": 8492, "block": 8493}


def role_of(process: str) -> str:
    """``server`` of ``server-n1``."""
    return process.partition("-")[0]


def config(lab: Lab, process: str) -> Path:
    """Its settings file."""
    kind = "json" if role_of(process) == "etcd" else "toml"
    return lab.folder / "conf" / f"{process}.{kind}"


def join_token(lab: Lab, process: str) -> Path:
    """What it registers with the first time."""
    return lab.folder / "conf" / f"{process}.join"


def state(lab: Lab, process: str) -> Path:
    """What it keeps over restarts."""
    return lab.folder / "state" / process


def drive(lab: Lab, group: str) -> Path:
    """The file that is the drive of a server."""
    return lab.folder / "drives" / f"{group}.img"


def fault(lab: Lab, group: str) -> Path:
    """What the drive of a server is ordered to do: a test build looks beside its drive's file."""
    return drive(lab, group).with_name(f"{group}.img.fault")


def master_key(lab: Lab) -> Path:
    """The key of all managers."""
    return lab.folder / "conf" / "master.key"


def tokens(lab: Lab) -> Path:
    """REST tokens, ``role token`` a line."""
    return lab.folder / "conf" / "tokens"


def run_dir(lab: Lab, group: str) -> Path:
    """The lease page of a server and its beacon; in memory."""
    return lab.shared / group


def socket_path(lab: Lab, group: str) -> Path:
    """The socket of a block daemon."""
    return lab.shared / f"{group}.sock"


def rest_urls(lab: Lab) -> list[str]:
    """REST of every manager, as the host reaches it."""
    return [f"http://{address(group)}:{REST}" for group in lab.manager_groups]


def texts(lab: Lab) -> dict[str, str]:
    """The settings file of every process."""
    return {process: _text(lab, process, group) for process, group in processes(lab).items()}


def _text(lab: Lab, process: str, group: str) -> str:
    role = role_of(process)
    if role == "etcd":
        return json.dumps(_etcd(lab, process, group), indent=1) + "\n"
    table: dict[str, Value] = {
        "state_dir": str(state(lab, process)),
        "metrics_listen": f"{address(group)}:{METRICS[role]}",
    }
    if role == "manager":
        return toml_text(table | _manager(lab, process, group))
    table |= {
        "name": group,
        "managers": [f"{address(each)}:{CONTROL}" for each in lab.manager_groups],
        "join_token_file": str(join_token(lab, process)),
    }
    if role == "block":
        return toml_text(table | {"socket": str(socket_path(lab, group)), "attacher": "export"})
    table["run_dir"] = str(run_dir(lab, group))
    if role == "beacon":
        return toml_text(table | {"listen": f"{address(group)}:{BEACON_PORT}"})
    drives: dict[str, Value] = {
        "path": str(drive(lab, group)), "listen": f"{address(group)}:{DRIVE}",
        "init": True, "create_bytes": DRIVE_BYTES,
    }  # fmt: skip
    return toml_text(table, {"drives": [drives]})


def _manager(lab: Lab, process: str, group: str) -> dict[str, Value]:
    return {
        "name": process,
        "metadata": "etcd",
        "etcd_endpoints": [f"{address(each)}:{ETCD_CLIENT}" for each in lab.manager_groups],
        "rest_listen": f"{address(group)}:{REST}",
        "control_listen": f"{address(group)}:{CONTROL}",
        "insecure_listen": True,  # the network is this machine's alone
        "master_key_file": str(master_key(lab)),
        "tokens_file": str(tokens(lab)),
    }


def _etcd(lab: Lab, process: str, group: str) -> dict[str, str]:
    client, peer = _url(group, ETCD_CLIENT), _url(group, ETCD_PEER)
    return {
        "name": process,
        "data-dir": str(state(lab, process)),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": ",".join(
            f"etcd-{each}={_url(each, ETCD_PEER)}" for each in lab.manager_groups
        ),
        "initial-cluster-token": "drystone-nemesis",
        "log-level": "warn",
    }


def _url(group: str, port: int) -> str:
    return f"http://{address(group)}:{port}"
