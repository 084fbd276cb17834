"""`drystone server`: puts the parts together and stops them in order."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from drystone_common import __version__
from drystone_common.logs import configure_logging, get_logger
from drystone_common.metrics import Metrics
from drystone_common.settings import load_settings
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.identity import IdentityFile
from drystone_storaged.agent.leasepage import PageWatch, attached
from drystone_storaged.agent.mapfeed import MapFeed
from drystone_storaged.agent.metrics_http import serving_metrics
from drystone_storaged.agent.pauses import MAX_S, VOTER_MAX_S
from drystone_storaged.agent.process import Background, run_daemon
from drystone_storaged.agent.pump import Event, Pump
from drystone_storaged.agent.register import Membership, Registrant, register
from drystone_storaged.agent.session import Session
from drystone_storaged.agent.silence import Silence, Votes
from drystone_storaged.attach.command import Runner, SystemRunner
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.commands import Commands, Controls
from drystone_storaged.server.core import ServerCore
from drystone_storaged.server.device_metrics import DeviceMetrics
from drystone_storaged.server.discover import Discovery
from drystone_storaged.server.drive import DriveDeps, DriveKeeper
from drystone_storaged.server.examine import Examiner
from drystone_storaged.server.fleet import DeviceGuard, Fleet
from drystone_storaged.server.lease import LeaseGate
from drystone_storaged.server.ledger import Ledger
from drystone_storaged.server.prepare import DriveTools, Preparer
from drystone_storaged.server.revive import Revive
from drystone_storaged.server.seen import SeenStore
from drystone_storaged.server.settings import ServerSettings
from drystone_storaged.server.status import ServerMetrics, StatusReporter
from drystone_storaged.server.stuck import stuck_copy
from drystone_storaged.server.trust import is_forgotten
from drystone_storaged.server.upcalls import Upcalls

CLOSED_REPORT_S: Final = 2.0  # telling the manager at a stop; it notices by itself soon after

_log = get_logger(__name__)


class Server:
    """One storage server around a native core."""

    def __init__(
        self,
        settings: ServerSettings,
        control: Control,
        membership: Membership,
        core: ServerCore,
        tools: DriveTools,
        *,
        instance: int = 0,
        runner: Runner | None = None,
    ) -> None:
        self.settings = settings
        self.core = core
        runner = runner or SystemRunner()
        self.background = Background()
        self._closed: list[asyncio.Task[None]] = []
        self._instance = instance or nonce()
        self.page = PageWatch()
        beacon_addr = self._start_beacon()
        slots = range(len(settings.drives))
        self.gate = LeaseGate(core.map, slots, lambda: self.maps.need(0))
        self.maps = MapFeed(control, self.gate.take)
        self.controls = Controls(core)
        self.silence = Silence(core, control)
        self.drives: list[DriveKeeper] = []
        hello = control_pb2.Hello(
            instance=self._instance, version=__version__, beacon_addr=beacon_addr
        )
        # With a beacon inside it votes; else the beacon's own process does.
        longest_s = MAX_S if settings.run_dir else VOTER_MAX_S
        self.seen = SeenStore(membership.incarnation, lambda: self.maps.revision, self.drives)
        self.session = Session(
            control, hello, self._on_message, longest_s=longest_s, seen=self.seen.newest
        )
        self.reporter = StatusReporter(core, self.drives, self.maps, self.session.send)
        self.session.on_open(self.reporter.session_opened)
        self.revive = Revive(self.drives, self.maps, self.reporter)
        self.session.on_open(self.revive.session_opened)
        self.maps.on_change = self._map_changed
        self.votes = Votes(core.ask_vote)
        self.fleet = Fleet(settings, self.drives, self.gate, self.session.send)
        self.session.on_open(self.fleet.session_opened)
        self.commands = self._commands()
        self.upcalls = Upcalls(core, control, self.maps, self._nonce_of)
        examiner = Examiner(runner, tools, membership.cluster)
        self.discovery = Discovery(runner, examiner, settings.device_folders, self.fleet.served)
        guard = DeviceGuard(self.discovery, examiner)
        deps = self._drive_deps(control, membership, tools, guard)
        self.fleet.wire(self.discovery, deps, self.background.start)
        self.drives += [DriveKeeper(d, slot, deps) for slot, d in enumerate(settings.drives)]
        self.pump = Pump(core, self._handlers())

    def _commands(self) -> Commands:
        return Commands(
            self.controls,
            self.maps,
            self.drives,
            probe=self.reporter.probe,
            answer=lambda result: self.session.send(control_pb2.SessionUp(result=result)),
            votes=None if self.settings.run_dir else self.votes,
            look=self.fleet.look,
        )

    def _drive_deps(
        self, control: Control, membership: Membership, tools: DriveTools, guard: DeviceGuard
    ) -> DriveDeps:
        """What every drive needs of the server."""
        preparer = Preparer(
            tools,
            Ledger(Path(self.settings.state_dir)),
            membership,
            lambda uuid: is_forgotten(self.maps.data, uuid),
            guard,
        )
        return DriveDeps(
            core=self.core,
            control=control,
            maps=self.maps,
            membership=membership,
            preparer=preparer,
            machine_id=machine_id(),
            nonce=nonce,
            carry_out=self.commands.carry_out,
            gate=self.gate,
            refused=self._refusals_changed,
        )

    def _start_beacon(self) -> str:
        """Inside, or take the place at the page of the beacon process; gives the address inside."""
        folder = self.settings.run_dir
        if not folder:
            return self.core.start_beacon(self.settings.beacon_listen, self._instance)
        attached(lambda: self.core.use_beacon(folder, self._instance))
        return ""

    def _refusals_changed(self) -> None:
        self.reporter.refusals_changed()
        self.fleet.changed()

    def _map_changed(self) -> None:
        self.revive.map_changed()
        for drive in self.drives:
            drive.map_changed()

    async def run(self) -> None:
        """Serve until cancelled, then close every drive in order and say so."""
        try:
            self.pump.start()
            start = self.background.start
            start(self.pump.failure(), "events")
            start(self.session.run(), "session")
            start(self.maps.run_stream(), "map-stream")
            start(self.maps.run_reads(), "map-reads")
            start(self.upcalls.run_calls(), "upcalls")
            start(self.upcalls.run_generations(), "generations")
            start(self.reporter.run(), "status")
            start(self.page.failure(), "lease-page")
            if not self.settings.run_dir:
                start(self.silence.run(), "silence")
            start(self.revive.run(), "revive")
            for drive in self.drives:
                start(drive.run(), f"drive-{drive.slot}")
            start(self.fleet.run(), "fleet")
            if self.settings.drive_listen and self.settings.discover:
                start(self.discovery.run(), "devices")
            await self.background.failure()
        finally:
            await self._stop()

    async def _stop(self) -> None:
        # Drives end first: "closed" promises that nothing is answered any more. Each is reported as
        # soon as that is so, not when its last checkpoint is written: others wait for the news.
        await asyncio.to_thread(self.core.stop)
        try:
            async with asyncio.timeout(CLOSED_REPORT_S):
                late = [asyncio.create_task(d.closed()) for d in self.drives]
                await asyncio.gather(*self._closed, *late, return_exceptions=True)
        except TimeoutError:
            _log.warning("close_not_reported")
        self.pump.stop()
        await self.commands.tasks.stop()
        await self.background.stop()

    async def _on_message(self, message: control_pb2.SessionDown) -> None:
        kind = message.WhichOneof("kind")
        inside = not self.settings.run_dir
        if kind == "welcome":
            if inside:
                self.silence.voters(message.welcome.voters)
            if message.welcome.map_revision > self.maps.revision:
                self.maps.need(message.welcome.map_revision)
        elif kind == "suspects" and inside:
            self.silence.suspects(message.suspects)
        elif kind == "command":
            self.commands.tasks.start(message.command)
        elif kind == "wanted":
            self.fleet.take(message.wanted)

    def _handlers(self) -> dict[str, Callable[[Event], None]]:
        return {
            "drive_ready": self._on_ready,
            "drive_failed": lambda e: self._drive(e["drive"], DriveKeeper.on_failed, e),
            "device_slow": self._on_slow,
            "invariant": self._on_invariant,
            "drive_closed": self._on_closed,
            "need_map": lambda e: self.maps.need(e["at_least"]),
            "need_generations": self.upcalls.on_need_generations,
            "copy_complete": self.upcalls.on_copy_complete,
            "still_quiet": self.upcalls.on_still_quiet,
            "leave_pg": self.upcalls.on_leave,
            "control_done": self.controls.on_done,
            "report": self._on_report,
            "quorum": self.silence.on_quorum,
            "vote": self.votes.on_vote,
            "silent": self.silence.on_silent,
            "lease_page_lost": self.page.on_lost,
        }

    def _on_ready(self, event: Event) -> None:
        self.reporter.drive_opened(event["drive"])
        self._drive(event["drive"], DriveKeeper.on_ready, event)

    def _on_closed(self, event: Event) -> None:
        _log.info("drive_closed", drive=event["drive"])
        number = event["drive"]
        self._drive(number, DriveKeeper.on_closed, event)
        self._closed += [asyncio.create_task(d.closed()) for d in self.drives if d.number == number]

    def _on_invariant(self, event: Event) -> None:
        _log.error("invariant_broken", drive=event["drive"], what=event["what"])
        self._drive(event["drive"], DriveKeeper.on_failed, event)

    def _on_report(self, event: Event) -> None:
        what = event["what"]
        if what == "scrub_done":
            self.commands.on_scrub_done(event)
        elif what == "scrub_progress":
            self.commands.on_scrub_progress(event)
        elif what == "divergent":
            _log.error("copies_differ", **dict(event))
            self.commands.compares.on_divergent(event)
        elif what == "drive_failed":
            self._drive(event["drive"], DriveKeeper.on_failed, event)
        elif what in ("map_refused", "unrepaired"):
            _log.error("engine_report", **dict(event))
        elif what == "healed":
            _log.warning("block_healed", **dict(event))
        elif what == "copy_stuck":
            _log.error("copy_stuck", detail=str(stuck_copy(event)), **dict(event))
        elif what == "copy_freed":
            _log.info("copy_goes_on", **dict(event))
        self.reporter.on_report(event)

    def _on_slow(self, event: Event) -> None:
        _log.warning("device_slow", drive=event["drive"], p99_ms=event["p99_us"] / 1000)
        self.reporter.device_slowed()

    def _drive(
        self, number: int, handle: Callable[[DriveKeeper, Event], None], event: Event
    ) -> None:
        for drive in self.drives:
            if drive.number == number:
                handle(drive, event)

    def _nonce_of(self, number: int) -> int:
        return next((d.nonce for d in self.drives if d.number == number), 0)


def nonce() -> int:
    """Random 64 bits, never 0."""
    return secrets.randbits(64) or 1


def machine_id() -> str:
    """Identity of this machine; a copied file on another one is noticed by it."""
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or "none"
    except (OSError, UnicodeDecodeError):
        return "none"


def core_config(membership: Membership) -> str:
    """Configuration of the native core."""
    return json.dumps(
        {
            "cluster": str(membership.cluster),
            "node": str(membership.identity.uuid),
            "incarnation": membership.incarnation,
            "feature_level": membership.feature_level,
            "masters": [[membership.key_epoch, membership.master_key.hex()]],
            "key_epoch": membership.key_epoch,
        }
    )


async def serve(settings: ServerSettings) -> None:
    """Run a server until cancelled."""
    import drystone_native  # noqa: PLC0415 - only the process that serves needs the module

    file = IdentityFile(Path(settings.state_dir))
    identity = file.load_or_create(settings.name)
    async with AsyncExitStack() as stack:
        control = Control(settings.managers, settings.tls_ca_file)
        stack.push_async_callback(control.aclose)
        instance = nonce()
        registrant = Registrant(
            control_pb2.ROLE_SERVER,
            settings.join_token_file,
            settings.fault_set,
            "" if settings.run_dir else settings.beacon_listen,
            instance if settings.run_dir else 0,
        )
        membership = await register(control, file, identity, registrant)
        core = drystone_native.ServerCore(core_config(membership))
        server = Server(settings, control, membership, core, drystone_native, instance=instance)
        metrics = Metrics("server", __version__)
        gauges = ServerMetrics(metrics, server.reporter)
        devices = DeviceMetrics(metrics, server.fleet)

        def refresh() -> None:
            gauges.refresh()
            devices.refresh()

        await stack.enter_async_context(serving_metrics(metrics, settings.metrics_listen, refresh))
        await server.run()


def run(config: Path) -> None:
    """Run `drystone server` with a settings file, to its end."""
    settings = load_settings(ServerSettings, file=config)
    configure_logging("server", level=settings.log_level)
    run_daemon(lambda: serve(settings))
