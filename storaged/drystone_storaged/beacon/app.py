"""`drystone beacon`: puts the parts together and stops them in order.

The page is zero from the first moment on, before anybody is asked for anything. Nothing here is on
the way of a lease: while this side sleeps, the native thread hears, echoes and lends.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from uuid import UUID

from drystone_common import __version__
from drystone_common.errors import ConflictError, InvariantError
from drystone_common.logs import configure_logging, get_logger
from drystone_common.metrics import Metrics
from drystone_common.settings import load_settings
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.identity import IdentityFile
from drystone_storaged.agent.leasepage import PageWatch, attached
from drystone_storaged.agent.metrics_http import serving_metrics
from drystone_storaged.agent.pauses import VOTER_MAX_S
from drystone_storaged.agent.process import Background, run_daemon
from drystone_storaged.agent.pump import Pump
from drystone_storaged.agent.register import Membership, Registrant, register
from drystone_storaged.agent.session import Session
from drystone_storaged.agent.silence import Silence, Votes
from drystone_storaged.beacon.commands import Commands, Revocations
from drystone_storaged.beacon.core import BeaconCore
from drystone_storaged.beacon.figures import BeaconFigures
from drystone_storaged.beacon.settings import BeaconSettings
from drystone_storaged.proto import control_pb2

PORT_WAIT_S: Final = 60.0  # as long as `drystone local up` waits for a process
SERVER_WAIT_S: Final = 0.5  # between two looks whether the server of this node has registered

_log = get_logger(__name__)


class Beacon:
    """One beacon around a native core."""

    def __init__(self, control: Control, core: BeaconCore, hello: control_pb2.Hello) -> None:
        self._core = core
        self.background = Background()
        self.silence = Silence(core, control)
        self.page = PageWatch()
        self.session = Session(control, hello, self._on_message, longest_s=VOTER_MAX_S)
        self.votes = Votes(core.ask_vote)
        self.revocations = Revocations(core)
        self.commands = Commands(
            self.votes,
            self.revocations,
            lambda result: self.session.send(control_pb2.SessionUp(result=result)),
        )
        handlers = {
            "quorum": self.silence.on_quorum,
            "silent": self.silence.on_silent,
            "vote": self.votes.on_vote,
            "revoked": self.revocations.on_revoked,
            "lease_page_lost": self.page.on_lost,
        }
        self.pump = Pump(core, handlers)

    async def run(self) -> None:
        """Serve until cancelled; then no lease of this beacon is left."""
        try:
            self.pump.start()
            start = self.background.start
            start(self.pump.failure(), "events")
            start(self.page.failure(), "lease-page")
            start(self.session.run(), "session")
            start(self.silence.run(), "silence")
            await self.background.failure()
        finally:
            await asyncio.to_thread(self._core.stop)
            self.pump.stop()
            await self.commands.tasks.stop()
            await self.background.stop()

    async def _on_message(self, message: control_pb2.SessionDown) -> None:
        kind = message.WhichOneof("kind")
        if kind == "welcome":
            self.silence.voters(message.welcome.voters)
        elif kind == "suspects":
            self.silence.suspects(message.suspects)
        elif kind == "command":
            self.commands.tasks.start(message.command)


class BeaconMetrics:
    """What a beacon sees."""

    def __init__(self, metrics: Metrics, silence: Silence, core: BeaconCore) -> None:
        self._silence = silence
        self._quorum = metrics.gauge(
            "in_quorum", "1 while this node hears more than half of the voters."
        )
        self._silent = metrics.gauge("silent_nodes", "Nodes that were not heard for 750 ms.")
        self.figures = BeaconFigures(core)
        metrics.registry.register(self.figures)

    def refresh(self) -> None:
        """Bring the gauges up to date."""
        self.figures.scraped()
        self._quorum.set(1 if self._silence.in_quorum else 0)
        self._silent.set(len(self._silence.silent))


async def admitted(control: Control, settings: BeaconSettings) -> Membership:
    """Register, waiting for the server of this node: the beacon speaks for it."""
    file = IdentityFile(Path(settings.state_dir))
    identity = file.load_or_create(settings.name)
    registrant = Registrant(
        control_pb2.ROLE_BEACON, settings.join_token_file, beacon_addr=settings.listen
    )
    told = False
    while True:
        try:
            return await register(control, file, identity, registrant)
        except ConflictError as error:
            if error.code != "node_not_registered":
                raise
            if not told:
                told = True
                _log.info("waiting_for_server", node=settings.name)
        await asyncio.sleep(SERVER_WAIT_S)


def core_config(membership: Membership, boot: int, listen: str) -> str:
    """Configuration of the native core."""
    if membership.node is None:
        raise InvariantError("the manager did not say for which node this beacon speaks")
    return json.dumps(
        {
            "node": str(UUID(bytes=membership.node)),
            "master": membership.master_key.hex(),
            "key_epoch": membership.key_epoch,
            "boot": boot,
            "listen": listen,
        }
    )


async def started(core: BeaconCore, config: str) -> str:
    """Start the thread; gives its address.

    A server that still has its beacon inside holds the port until it is restarted.
    """
    told = False
    end = asyncio.get_running_loop().time() + PORT_WAIT_S
    while True:
        try:
            return core.start(config)
        except Exception as error:
            if asyncio.get_running_loop().time() > end:
                raise ConflictError(
                    str(error), code="beacon_not_started", hint="does another process use the port?"
                ) from error
            if not told:
                told = True
                _log.warning("waiting_for_port", reason=str(error))
        await asyncio.sleep(SERVER_WAIT_S)


async def serve(settings: BeaconSettings) -> None:
    """Run a beacon until cancelled."""
    import drystone_native  # noqa: PLC0415 - only the process that serves needs the module

    boot = secrets.randbits(64) or 1
    core = attached(lambda: drystone_native.BeaconCore(settings.run_dir, boot))
    async with AsyncExitStack() as stack:
        control = Control(settings.managers, settings.tls_ca_file)
        stack.push_async_callback(control.aclose)
        membership = await admitted(control, settings)
        address = await started(core, core_config(membership, boot, settings.listen))
        hello = control_pb2.Hello(instance=boot, version=__version__, beacon_addr=address)
        beacon = Beacon(control, core, hello)
        metrics = Metrics("beacon", __version__)
        gauges = BeaconMetrics(metrics, beacon.silence, core)
        await stack.enter_async_context(
            serving_metrics(metrics, settings.metrics_listen, gauges.refresh)
        )
        beacon.background.start(gauges.figures.run(), "figures")
        await beacon.run()


def run(config: Path) -> None:
    """Run `drystone beacon` with a settings file, to its end."""
    settings = load_settings(BeaconSettings, file=config)
    configure_logging("beacon", level=settings.log_level)
    run_daemon(lambda: serve(settings))
