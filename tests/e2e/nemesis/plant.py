"""The cluster of a run: its processes in their networks, registered, with a pool over all drives.

Started again in a folder that was kept, it goes on with the drives and the records there.
"""

from __future__ import annotations

import json
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

from drystone_common.errors import DrystoneError
from drystone_common.files import atomic_write_text
from drystone_storaged.agent.rest import Rest
from drystone_storaged.local.answers import listens
from drystone_storaged.local.etcd import etcd_program
from tests.e2e.lib.shell import LabError
from tests.e2e.lib.waits import wait_for
from tests.e2e.nemesis import conf
from tests.e2e.nemesis.lifecycle import Run
from tests.e2e.nemesis.settings import processes
from tests.e2e.nemesis.testbuild import environment

UP_S: Final = 60.0  # of a quick machine 5 s; a busy one of two CPUs needs ten times that
IN_SYNC_S: Final = 120.0
ANSWER_S: Final = 5.0
ASKED_S: Final = 60.0  # managers rebuild what they know of all drives after an election
POOL: Final = "default"
COPIES: Final = 3
PGS: Final = 64  # enough that each server leads some and stores many
DIES: Final = "hold_flush_ms"
TOKEN_ROLES: Final = {"server": "server", "beacon": "beacon", "block": "client"}


class Plant:
    """Everything that runs. Names of processes are those of `settings.processes`."""

    def __init__(self, run: Run, *, faulty: bool = False) -> None:
        """``faulty``: servers are of the build whose drives fail on order."""
        self._run, self._faulty = run, faulty
        self._lab = run.lab
        self._groups = processes(run.lab)
        self._rest: Rest | None = None
        self._open = ExitStack()
        self._killed: set[str] = set()

    def up(self) -> None:
        """Write settings, start all, register who is new, make the pool; returns when in sync."""
        self._write()
        for name in self._groups:
            self.start(name)
        self.until(lambda: bool(self.rest.get("/v1/health")), "a manager that can work", UP_S)
        self._admit()
        self.until(self._all_up, "every drive up", UP_S)
        if not any(pool["name"] == POOL for pool in self.rest.items("/v1/pools")):
            self.rest.post("/v1/pools", {"name": POOL, "copies": COPIES, "pg_count": PGS})
        self.wait_in_sync()
        for group in self._lab.block_groups:
            path = conf.socket_path(self._lab, group)
            wait_for(lambda path=path: listens(path), f"{path} to be served", UP_S)  # type: ignore[misc]

    def start(self, name: str) -> None:
        """Start a process that does not run; returns at once."""
        if self.runs(name):
            return
        self._killed.discard(name)
        settings = str(conf.config(self._lab, name))
        role = conf.role_of(name)
        if role == "etcd":
            argv = [etcd_program(), "--config-file", settings]
        else:
            argv = [sys.executable, "-m", "drystone_cli", role, "--config", settings]
        self._run.start(name, self._groups[name], argv, self._environment(role))

    def _environment(self, role: str) -> dict[str, str] | None:
        return environment() if self._faulty and role == "server" else None

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal; False where it does not run."""
        if number is signal.SIGKILL:
            self._killed.add(name)
        return self._run.started.signal(name, number)

    def order_drive(self, group: str, order: Mapping[str, int | str | bool] | None) -> None:
        """Tell the drive of a group how to fail; None takes that back. Only test builds obey."""
        path = conf.fault(self._lab, group)
        if order is None:
            path.unlink(missing_ok=True)
            return
        if DIES in order:
            self._killed.add(f"server-{group}")  # its end is not a surprise
        atomic_write_text(path, json.dumps(dict(order)))

    def wait_gone(self, name: str) -> None:
        """Wait until one that was killed is dead."""
        self._run.started.wait_gone(name)

    def runs(self, name: str) -> bool:
        """Whether it lives; also one that is stopped does."""
        return self._run.started.pid(name) is not None

    @property
    def rest(self) -> Rest:
        """All managers, with the admin token."""
        if self._rest is None:
            lines = conf.tokens(self._lab).read_text().splitlines()
            token = next(line.split()[1] for line in lines if line.startswith("admin "))
            rest = Rest(conf.rest_urls(self._lab), token, timeout_s=ANSWER_S)
            self._rest = self._open.enter_context(rest)
        return self._rest

    def close(self) -> None:
        """Let go of the managers."""
        self._open.close()
        self._rest = None

    def asked(self, path: str) -> Any:
        """The answer of whichever manager leads, soon or after the election that is under way."""
        found: list[Any] = []

        def ask() -> bool:
            found.append(self.rest.get(path))
            return True

        self.until(ask, f"an answer to {path}", ASKED_S)
        return found[-1]

    def status(self) -> Any:
        """What `drystone status -o json` prints."""
        return self.rest.get("/v1/status")

    def in_sync(self) -> bool:
        """Whether every placement group has all its copies."""
        pgs = self.status()["pgs"]
        return bool(pgs["total"]) and pgs["in_sync"] == pgs["total"]

    def wait_in_sync(self, deadline_s: float = IN_SYNC_S) -> None:
        """Wait until every placement group is in sync."""
        self.until(self.in_sync, "every placement group in sync", deadline_s)

    def until(self, ask: Callable[[], bool], what: str, deadline_s: float) -> None:
        """Wait for it. Managers that do not answer are asked again; who died by itself is named."""

        def asked() -> bool:
            self.must_live()
            try:
                return ask()
            except DrystoneError:
                return False

        wait_for(asked, what, deadline_s, poll_s=0.1)

    def must_live(self) -> None:
        """Refuse to go on when a process ended that nobody killed."""
        for name in self._groups:
            if name not in self._killed and not self.runs(name):
                raise LabError(f"{name} ended by itself: {self._last_words(name)}")

    def _write(self) -> None:
        for name, text in conf.texts(self._lab).items():
            path = conf.config(self._lab, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, text)
            conf.state(self._lab, name).mkdir(parents=True, exist_ok=True, mode=0o700)
        for group in self._lab.server_groups:
            conf.run_dir(self._lab, group).mkdir(parents=True, exist_ok=True, mode=0o700)
            conf.drive(self._lab, group).parent.mkdir(exist_ok=True)
        if not conf.tokens(self._lab).exists():
            lines = [f"{role} {secrets.token_urlsafe(32)}" for role in ("read", "operate", "admin")]
            atomic_write_text(conf.tokens(self._lab), "\n".join(lines) + "\n")
        if not conf.master_key(self._lab).exists():
            atomic_write_text(conf.master_key(self._lab), f"{secrets.token_hex(32)}\n")

    def _admit(self) -> None:
        """Join tokens for all that were never registered; they wait for the file."""
        for name, group in self._groups.items():
            role = TOKEN_ROLES.get(conf.role_of(name))
            path = conf.join_token(self._lab, name)
            if role is not None and not path.exists():
                answer = self.rest.post("/v1/join-tokens", {"role": role, "name": group})
                atomic_write_text(path, f"{answer['token']}\n")

    def _all_up(self) -> bool:
        wanted = len(self._lab.server_groups)
        up = sum(each["state"] == "up" for each in self.rest.items("/v1/drives"))
        # The loss of a node is decided by those who vote.
        voters = sum(each["voter"] for each in self.rest.items("/v1/nodes"))
        return up == wanted == voters

    def _last_words(self, name: str) -> str:
        return (self._lab.log / f"{name}.log").read_text(errors="replace")[-1500:]
