"""`drystone local`: up, status, down, destroy, start, stop."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from drystone_common.errors import (
    ConflictError,
    DeadlineError,
    DrystoneError,
    InvalidArgumentError,
    NotFoundError,
)
from drystone_common.files import atomic_write_text, read_json
from drystone_storaged.agent.identity import FILE_NAME as IDENTITY
from drystone_storaged.agent.rest import LOOK_S, TIMEOUT_S, Rest, read_token
from drystone_storaged.local import configs, ports
from drystone_storaged.local import members as parts
from drystone_storaged.local.answers import connected, healthy, in_sync, listens
from drystone_storaged.local.etcd import etcd_program
from drystone_storaged.local.health import QUIET_S, Notify, Waiter
from drystone_storaged.local.layout import Layout
from drystone_storaged.local.lock import locked
from drystone_storaged.local.members import Members, Wanted
from drystone_storaged.local.processes import Kind, Process, Processes
from drystone_storaged.local.removal import Removal
from drystone_storaged.local.view import View

COPIES: Final = 3  # of the pool `default`, where there are drives for it
POOL: Final = "default"
STOP_S: Final = 20.0  # a server writes its clean state within 10 s; then recovery does it
SignalName = Literal["TERM", "KILL", "STOP", "CONT"]


def _silent(_line: str) -> None:
    """Nobody listens."""


class LocalCluster:
    """The cluster in one folder. ``notify`` is told what happens, a line each."""

    def __init__(self, root: Path, notify: Notify = _silent) -> None:
        self.layout = Layout(root.expanduser().absolute())
        self._notify = notify
        self.processes = Processes(self.layout)
        self._removal = Removal(self.layout, self.processes, notify)

    def rest(self, members: Members, timeout_s: float = TIMEOUT_S) -> Rest:
        """A client of this cluster's managers."""
        token = read_token(self.layout.token_file)
        return Rest(members.rest_urls(), token, timeout_s=timeout_s)

    def up(self, wanted: Wanted) -> dict[str, Any]:
        """Make or complete the cluster, start what does not run, return when it is healthy."""
        if wanted.metadata == "etcd":
            etcd_program()  # before anything is made
        try:
            self.layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise InvalidArgumentError(
                f"the folder {self.layout.root} cannot be made: {error.strerror}",
                code="folder_unusable",
                hint="name another one with --dir",
            ) from error
        self._refuse_foreign()
        with locked(self.layout):
            members = self._members(wanted)
            self._notify(f"folder {self.layout.root}")
            wanted_processes = configs.processes(members)
            # All at once: what a node needs of the manager it waits for.
            for process in wanted_processes:
                self._start(process)
            waiter = Waiter(self.processes, wanted_processes, self._notify)
            with self.rest(members, LOOK_S) as look:
                waiter.until("no manager answers", lambda: healthy(look))
            with self.rest(members) as rest:
                self._admit(rest, members)
                self._restart_outdated(rest, members, waiter)
                self._wait_drives(rest, members, waiter)
                self._ensure_pool(rest, members)
                status = waiter.until_healthy(rest, members)
                self._wait_sockets(members, waiter)
            return status

    def status(self) -> dict[str, Any]:
        """Processes, and the manager's view if it answers."""
        return View(self.layout, parts.load(self.layout), self.processes).shown()

    def down(self) -> int:
        """Stop every process; data, devices and settings stay. Gives how many ran."""
        members = parts.load(self.layout)
        with locked(self.layout):
            count = self._stop_all(configs.processes(members))
            self._removal.remove_pages()
            self._removal.drop_dead_devices(members)
            return count

    def destroy(self, *, force: bool = False) -> None:
        """Detach, stop, remove everything that this cluster ever made."""
        if not self.layout.root.is_dir():
            return
        self._removal.refuse_foreign()
        with locked(self.layout):
            consumers, processes = self._removal.what_there_is(force=force)
            self._removal.detach(consumers, force=force)
            self._stop_all(processes)
            self._removal.remove_pages()
            self._removal.remove_devices(consumers, force=force)
            for name in ("state", "drives", "csi", "conf", "run", "log"):
                self._removal.remove(self.layout.root / name)
            # Last: until here a second `destroy` goes on where this one was cut off.
            for name in ("token", "tokens", "master.key", "cluster.json", "lock"):
                (self.layout.root / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.layout.root.rmdir()

    def stop(self, node: str, name: SignalName, kind: Kind | None) -> str:
        """Send a signal to a node's process; TERM and KILL wait until it is gone."""
        process = self._process(parts.load(self.layout), node, kind)
        number = signal.Signals[f"SIG{name}"]
        with locked(self.layout):
            if not self.processes.signal(process, number):
                raise ConflictError(
                    f"{process.name} does not run",
                    code="not_running",
                    hint=f"start it with `drystone local start {node}`",
                )
            if name in ("TERM", "KILL") and not self.processes.wait_gone(process, STOP_S):
                raise DeadlineError(
                    f"{process.name} did not end after SIG{name}",
                    code="process_stuck",
                    hint="a frozen process takes SIGTERM only after --signal CONT; KILL always",
                )
        return process.name

    def start(self, node: str) -> list[str]:
        """Start what does not run on a node; returns when the manager sees it."""
        members = parts.load(self.layout)
        found = [p for p in configs.processes(members) if p.node == node]
        if not found:
            raise self._no_node(members, node)
        with locked(self.layout):
            parts.ensure_tokens(self.layout)
            members = self._fresh_ports(members, only=node)
            configs.write(self.layout, members)
            started = [p.name for p in found if self._start(p)]
            waiter = Waiter(self.processes, found, self._notify)
            if self._is_head(members, node, waiter):
                return started
            with self.rest(members) as rest:
                waiter.until(f"{node} does not connect", lambda: connected(rest, node))
            self._wait_sockets(members, waiter, only=node)
        return started

    def _is_head(self, members: Members, node: str, waiter: Waiter) -> bool:
        """For a manager or a member of etcd: wait until it answers by itself."""
        for manager in members.managers():
            if manager.name == node:
                token = read_token(self.layout.token_file)
                with Rest(manager.rest_url(), token, timeout_s=LOOK_S) as rest:
                    waiter.until(f"{node} does not answer", lambda: healthy(rest))
                return True
        taken = [member.client_port for member in members.etcd if member.name == node]
        if taken:
            waiter.until(f"{node} does not listen", lambda: not ports.is_free(taken[0]))
        return bool(taken)

    def _members(self, wanted: Wanted) -> Members:
        self.layout.make_folders()
        try:
            members = parts.grow(parts.load(self.layout), wanted)
        except NotFoundError:
            members = parts.found(self.layout, wanted)
        members = self._fresh_ports(members)
        parts.ensure_tokens(self.layout)
        parts.ensure_master(self.layout, members)
        parts.save(self.layout, members)
        configs.write(self.layout, members)
        return members

    def _fresh_ports(self, members: Members, only: str | None = None) -> Members:
        """Give servers that do not run other ports where something took theirs meanwhile."""
        # A beacon may run on without its server, whose ports are then to be looked at.
        known = [p for p in configs.processes(members) if p.kind == "server"]
        running = {p.node for p in known if self.processes.pid(p)}
        servers = []
        for server in members.servers:
            if server.name in running or only not in (None, server.name):
                servers.append(server)
                continue
            taken = members.ports()
            drives = []
            for drive in server.drives:
                port = drive.port if ports.is_free(drive.port) else ports.pick(1, taken)[0]
                taken.add(port)
                drives.append(drive.model_copy(update={"port": port}))
            servers.append(server.model_copy(update={"drives": drives}))
        changed = members.model_copy(update={"servers": servers})
        if changed != members:
            parts.save(self.layout, changed)
        return changed

    def _start(self, process: Process) -> bool:
        if self.processes.state(process) == "frozen":
            self._notify(f"{process.name} is frozen: it goes on")
            self.processes.signal(process, signal.SIGCONT)
            return False
        started = self.processes.start(process)
        if started:
            self._notify(f"started {process.name}")
        return started

    def _restart_outdated(self, rest: Rest, members: Members, waiter: Waiter) -> None:
        """Servers that run with older settings take the new ones, such as another drive.

        One after the other, each only while everything is in sync: writes go on meanwhile.
        """
        for process in configs.processes(members):
            if process.kind != "server" or not self.processes.is_outdated(process):
                continue
            waiter.until("not everything is in sync", lambda: in_sync(rest), QUIET_S)
            self._notify(f"restarting {process.name} with its new settings")
            self.processes.stop(process)
            self._start(process)
            node = process.node
            waiter.until(f"{node} does not connect", lambda node=node: connected(rest, node))  # type: ignore[misc]
            waiter.until("not everything is in sync", lambda: in_sync(rest), QUIET_S)

    def _admit(self, rest: Rest, members: Members) -> None:
        """Give a join token to every node that was never registered."""
        names = [("server", s.name, s.name) for s in members.servers]
        names += [("beacon", s.name, f"{s.name}-beacon") for s in members.servers]
        names += [("client", c.name, c.name) for c in members.consumers]
        for role, name, state in names:
            if self._has_credential(state):
                continue
            token = rest.post("/v1/join-tokens", {"role": role, "name": name})["token"]
            path = self.layout.join_token(state)
            atomic_write_text(path, f"{token}\n")

    def _has_credential(self, name: str) -> bool:
        try:
            data = read_json(self.layout.state(name) / IDENTITY)
        except NotFoundError:
            return False
        return isinstance(data, dict) and bool(data.get("credential"))

    def _wait_drives(self, rest: Rest, members: Members, waiter: Waiter) -> None:
        """A pool is laid out over the drives that are up: all of them, please."""
        if any(pool["name"] == POOL for pool in rest.items("/v1/pools")):
            return
        self._notify("formatting drives")

        def up() -> int:
            return sum(1 for drive in rest.items("/v1/drives") if drive["state"] == "up")

        waiter.until_drives(up, members.drive_count())

    def _ensure_pool(self, rest: Rest, members: Members) -> None:
        if any(pool["name"] == POOL for pool in rest.items("/v1/pools")):
            return
        nodes = len(members.servers)
        places = nodes if nodes > 1 else members.drive_count()
        rest.post("/v1/pools", {"name": POOL, "copies": min(COPIES, places)})
        self._notify(f"made pool {POOL} with {min(COPIES, places)} copies")

    def _wait_sockets(self, members: Members, waiter: Waiter, only: str | None = None) -> None:
        for consumer in members.consumers:
            if only not in (None, consumer.name):
                continue
            for path in (
                self.layout.block_socket(consumer.name),
                self.layout.csi_socket(consumer.number),
            ):
                waiter.until(f"{path} does not answer", lambda path=path: listens(path))  # type: ignore[misc]

    def _stop_all(self, found: list[Process]) -> int:
        """All of one kind at once, consumers before servers before managers before their store."""
        count = 0
        for kinds in (("csi",), ("block",), ("server",), ("beacon",), ("manager",), ("etcd",)):
            chosen = [p for p in found if p.kind in kinds and self.processes.pid(p)]
            for process in chosen:
                self.processes.signal(process, signal.SIGTERM)
                self.processes.signal(process, signal.SIGCONT)
            for process in chosen:
                if not self.processes.wait_gone(process, STOP_S):
                    self.processes.kill(process)
                self._notify(f"stopped {process.name}")
                count += 1
        return count

    def _process(self, members: Members, node: str, kind: Kind | None) -> Process:
        found = [p for p in configs.processes(members) if p.node == node and p.kind != "csi"]
        if kind is not None:
            found = [p for p in found if p.kind == kind]
        if not found:
            raise self._no_node(members, node, kind)
        return found[0]

    def _no_node(self, members: Members, node: str, kind: Kind | None = None) -> DrystoneError:
        what = f"{kind} on {node}" if kind and node in members.node_names() else f"node {node}"
        return NotFoundError(
            f"there is no {what} in this cluster",
            code="node_not_found",
            hint=f"there are {', '.join(members.node_names())}",
        )

    def _refuse_foreign(self) -> None:
        if not self.layout.cluster_file.exists() and self.layout.foreign():
            # Before anything is made in a folder that is not ours.
            parts.found(self.layout, Wanted())
