"""`drystone block`: puts the parts together; a stop leaves every attachment as it is."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from drystone_common import __version__
from drystone_common.errors import DrystoneError
from drystone_common.ids import format_id, parse_id
from drystone_common.logs import configure_logging, get_logger
from drystone_common.metrics import Metrics
from drystone_common.settings import load_settings
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.identity import IdentityFile
from drystone_storaged.agent.mapfeed import MapFeed
from drystone_storaged.agent.metrics_http import serving_metrics
from drystone_storaged.agent.process import Background, run_daemon
from drystone_storaged.agent.pump import Event, Pump
from drystone_storaged.agent.register import Membership, Registrant, register
from drystone_storaged.agent.session import Session
from drystone_storaged.attach.probe import Host
from drystone_storaged.block.core import BlockCore
from drystone_storaged.block.devices import Devices
from drystone_storaged.block.engine import Engine
from drystone_storaged.block.figures import VolumeFigures
from drystone_storaged.block.grants import Grants
from drystone_storaged.block.records import Records
from drystone_storaged.block.reports import Reports
from drystone_storaged.block.service import BlockService, serving
from drystone_storaged.block.settings import BlockSettings
from drystone_storaged.block.volumes import Volumes
from drystone_storaged.proto import control_pb2

METRICS_PERIOD_S: Final = 5.0  # how old the figures of a scrape may be

_log = get_logger(__name__)


class BlockDaemon:
    """One block daemon around a native core."""

    def __init__(
        self,
        settings: BlockSettings,
        control: Control,
        membership: Membership,
        core: BlockCore,
    ) -> None:
        state = Path(settings.state_dir)
        self.core = core
        self.membership = membership
        self.background = Background()
        self._calls: set[asyncio.Task[None]] = set()
        self.maps = MapFeed(control, lambda data, _: core.map(data))
        helper = Path(settings.fuse_helper_socket) if settings.fuse_helper_socket else None
        self.devices = Devices(state, settings.attacher, Host.look(helper), self._in_flight)
        records = Records(state / "attachments")
        self.volumes = Volumes(
            records=records,
            grants=Grants(control, records.save, nonce),
            devices=self.devices,
            maps=self.maps,
            sockets=state / "nbd",
            near=settings.near_node,
        )
        self.engine = Engine(
            core,
            want_activate=lambda v, g: self._call(self.volumes.activate(v, g)),
            fenced=lambda v: self._call(self.volumes.after_fence(v)),
        )
        self.volumes.engine = self.engine
        self.reports = Reports(control, lambda: self.maps.data)
        hello = control_pb2.Hello(instance=nonce(), version=__version__)
        self.session = Session(control, hello, self._on_message)
        self.pump = Pump(core, self._handlers())

    async def run(self) -> None:
        """Serve until cancelled. Devices stay: their I/O waits for the next start."""
        try:
            self.pump.start()
            start = self.background.start
            start(self.pump.failure(), "events")
            start(self.session.run(), "session")
            start(self.maps.run_stream(), "map-stream")
            start(self.maps.run_reads(), "map-reads")
            start(self.volumes.readopt_all(), "readopt")
            await self.background.failure()
        finally:
            for task in list(self._calls):
                task.cancel()
            try:
                await self.background.stop()
                # Attachers prepare their devices for the pause while I/O still goes on.
                await self.devices.aclose()
            finally:
                self.pump.stop()
                self.core.stop()

    async def _on_message(self, message: control_pb2.SessionDown) -> None:
        kind = message.WhichOneof("kind")
        if kind == "welcome" and message.welcome.map_revision > self.maps.revision:
            self.maps.need(message.welcome.map_revision)
        elif kind == "revoked":
            gone = message.revoked
            _log.warning("attachment_revoked", volume=format_id(gone.volume))
            await self.volumes.revoked(gone.volume, gone.nonce, gone.generation)
        elif kind == "changed":
            self._call(self.volumes.refresh(message.changed.volume))

    async def _in_flight(self, volume_id: str) -> int:
        return await self.engine.in_flight(parse_id(volume_id))

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what an event asks for beside everything else; its failure is logged."""

        async def guarded() -> None:
            try:
                await work
            except DrystoneError as error:
                _log.warning("follow_up_failed", code=error.code, reason=str(error))
            except Exception:  # noqa: BLE001 - one volume's trouble is not the others'
                _log.exception("follow_up_defect")

        task = asyncio.get_running_loop().create_task(guarded())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def _handlers(self) -> dict[str, Callable[[Event], None]]:
        return {
            "state": self.engine.on_state,
            "fenced": self.engine.on_fenced,
            "want_activate": self.engine.on_want_activate,
            "need_map": lambda e: self.maps.need(e["at_least"]),
            "report": self.reports.on_report,
            "ticket_in_force": self.engine.on_ticket_in_force,
            "detached": self.engine.on_detached,
            "attach_failed": self.engine.on_attach_failed,
            "invariant": self.engine.on_invariant,
        }


class BlockMetrics:
    """Gauges of the attachments, kept a few seconds fresh while somebody scrapes them.

    An idle daemon with a hundred volumes must not count them all every few seconds for nobody.
    """

    def __init__(self, metrics: Metrics, daemon: BlockDaemon) -> None:
        self._daemon = daemon
        self._scraped = asyncio.Event()
        self._scraped.set()
        self._attached = metrics.gauge("volumes_attached", "Volumes attached here.")
        self._counters = metrics.gauge(
            "engine_count", "Counters of an attachment.", ["volume", "counter"]
        )
        self._bad = metrics.gauge("bad_blocks_bypassed", "Blocks read from another copy.")
        self._figures = VolumeFigures()
        metrics.registry.register(self._figures)

    def scraped(self) -> None:
        """Somebody reads: the next answer shall be fresh."""
        self._scraped.set()

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self._scraped.wait()
            self._scraped.clear()
            try:
                await self._refresh()
            except DrystoneError as error:
                _log.warning("no_figures", reason=str(error))
                self._show({})
            except Exception:  # noqa: BLE001 - whoever writes waits for this process, not for figures
                _log.exception("figures_defect")
                self._show({})
            await asyncio.sleep(METRICS_PERIOD_S)

    async def _refresh(self) -> None:
        self._attached.set(len(self._daemon.volumes.list()))
        self._bad.set(self._daemon.reports.bad_blocks)
        self._show((await self._daemon.engine.stats())["volumes"])

    def _show(self, volumes: Mapping[str, Mapping[str, Any]]) -> None:
        self._figures.take(volumes)
        self._counters.clear()
        for volume, stats in volumes.items():
            for name, value in stats["counters"].items():
                self._counters.labels(format_id(int(volume)), name).set(value)


def nonce() -> int:
    """Random 64 bits, never 0."""
    return secrets.randbits(64) or 1


def core_config(membership: Membership) -> str:
    """Configuration of the native core."""
    return json.dumps(
        {
            "cluster": str(membership.cluster),
            "client": str(membership.identity.uuid),
            "key": membership.role_key.hex(),
            "key_epoch": membership.key_epoch,
        }
    )


async def serve(settings: BlockSettings) -> None:
    """Run a block daemon until cancelled."""
    import drystone_native  # noqa: PLC0415 - only the process that serves needs the module

    file = IdentityFile(Path(settings.state_dir))
    identity = file.load_or_create(settings.name)
    async with AsyncExitStack() as stack:
        control = Control(settings.managers, settings.tls_ca_file)
        stack.push_async_callback(control.aclose)
        registrant = Registrant(control_pb2.ROLE_CLIENT, settings.join_token_file)
        membership = await register(control, file, identity, registrant)
        core = drystone_native.BlockCore(core_config(membership))
        daemon = BlockDaemon(settings, control, membership, core)
        metrics = Metrics("block", __version__)
        gauges = BlockMetrics(metrics, daemon)
        scrapes = serving_metrics(metrics, settings.metrics_listen, gauges.scraped)
        await stack.enter_async_context(scrapes)
        if settings.metrics_listen:
            daemon.background.start(gauges.run(), "metrics")
        service = BlockService(
            daemon.volumes, membership, daemon.devices.kinds(), daemon.session.connected.is_set
        )
        await stack.enter_async_context(serving(service, Path(settings.socket)))
        await daemon.run()


def run(config: Path) -> None:
    """Run `drystone block` with a settings file, to its end."""
    settings = load_settings(BlockSettings, file=config)
    configure_logging("block", level=settings.log_level)
    run_daemon(lambda: serve(settings))
