"""Settings files of the processes, written anew at every start: the folder is the only truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from drystone_common.files import atomic_write_text
from drystone_common.toml import Table, Value, toml_text
from drystone_storaged.local import etcd
from drystone_storaged.local.layout import Layout
from drystone_storaged.local.members import (
    ConsumerMember,
    ManagerMember,
    Members,
    ServerMember,
)
from drystone_storaged.local.ports import HOST
from drystone_storaged.local.processes import Process


def processes(members: Members) -> list[Process]:
    """Every process, in the order in which they are started."""
    found = [Process(e.name, "etcd", e.name) for e in members.etcd]
    found += [Process(m.name, "manager", m.name) for m in members.managers()]
    found += [Process(f"{s.name}-server", "server", s.name) for s in members.servers]
    found += [Process(f"{s.name}-beacon", "beacon", s.name) for s in members.servers]
    found += [Process(c.name, "block", c.name) for c in members.consumers]
    found += [Process(f"csi-{c.number}", "csi", c.name) for c in members.consumers]
    return found


def write(layout: Layout, members: Members) -> None:
    """Write the settings of every process."""
    for member in members.etcd:
        text = json.dumps(etcd.settings(layout, members, member), indent=1) + "\n"
        _write(layout.config(member.name), text)
    for manager in members.managers():
        _put(layout, manager.name, _manager(layout, members, manager))
    for server in members.servers:
        drives: list[Table] = [
            {
                "path": str(layout.drive(server.name, number)),
                "listen": f"{HOST}:{drive.port}",
                "init": True,
                "create_bytes": drive.size,
            }
            for number, drive in enumerate(server.drives, start=1)
        ]
        _put(layout, f"{server.name}-server", _server(layout, members, server), drives)
        _put(layout, f"{server.name}-beacon", _beacon(layout, members, server))
    for consumer in members.consumers:
        _put(layout, consumer.name, _block(layout, members, consumer))
        _put(layout, f"csi-{consumer.number}", _csi(layout, members, consumer))


def _put(layout: Layout, process: str, table: Table, drives: Sequence[Table] = ()) -> None:
    _write(layout.config(process), toml_text(table, {"drives": drives}))


def _write(path: Path, text: str) -> None:
    # A file that says the same stays: its time tells who runs with older settings.
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        atomic_write_text(path, text)


def _manager(layout: Layout, members: Members, manager: ManagerMember) -> Table:
    table: dict[str, Value] = {
        "name": manager.name,
        "state_dir": str(layout.state(manager.name)),
        "rest_listen": f"{HOST}:{manager.rest_port}",
        "control_listen": f"{HOST}:{manager.control_port}",
        "tokens_file": str(layout.tokens_file),
        "metrics_listen": f"{HOST}:{manager.metrics_port}",
    }
    if members.metadata == "etcd":
        table |= {
            "metadata": "etcd",
            "etcd_endpoints": [f"{HOST}:{member.client_port}" for member in members.etcd],
            "master_key_file": str(layout.master_file),
        }
    return table


def _daemon(layout: Layout, members: Members, node: str, metrics_port: int) -> dict[str, Value]:
    return {
        "name": node,
        "state_dir": str(layout.state(node)),
        "managers": [f"{HOST}:{manager.control_port}" for manager in members.managers()],
        "join_token_file": str(layout.join_token(node)),
        "metrics_listen": f"{HOST}:{metrics_port}",
    }


def _server(layout: Layout, members: Members, server: ServerMember) -> Table:
    return {
        **_daemon(layout, members, server.name, server.metrics_port),
        "run_dir": str(layout.beacon_run(server.name)),
    }


def _beacon(layout: Layout, members: Members, server: ServerMember) -> Table:
    state = f"{server.name}-beacon"
    return {
        **_daemon(layout, members, server.name, server.beacon_metrics_port),
        "state_dir": str(layout.state(state)),
        "join_token_file": str(layout.join_token(state)),
        "listen": f"{HOST}:{server.beacon_port}",
        "run_dir": str(layout.beacon_run(server.name)),
    }


def _block(layout: Layout, members: Members, consumer: ConsumerMember) -> Table:
    return {
        **_daemon(layout, members, consumer.name, consumer.metrics_port),
        "socket": str(layout.block_socket(consumer.name)),
    }


def _csi(layout: Layout, members: Members, consumer: ConsumerMember) -> Table:
    return {
        "name": consumer.name,
        "rest_urls": members.rest_urls(),
        "token_file": str(layout.token_file),
        "block_socket": str(layout.block_socket(consumer.name)),
        "socket": str(layout.csi_socket(consumer.number)),
    }
