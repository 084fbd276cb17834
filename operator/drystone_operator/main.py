"""`drystone operator`: puts the pieces together; everything they know is elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import kopf

from drystone_common import __version__
from drystone_common.errors import InvalidArgumentError
from drystone_common.logs import configure_logging, get_logger
from drystone_common.metrics import Metrics
from drystone_common.settings import load_settings
from drystone_operator import names
from drystone_operator.apply.executor import Executor
from drystone_operator.apply.interface import Kube, KubeError
from drystone_operator.apply.status_writer import StatusWriter
from drystone_operator.handlers.failover import Failovers
from drystone_operator.handlers.loops import Loops
from drystone_operator.handlers.managers import Managers, Transport
from drystone_operator.handlers.rounds import Around, Rounds
from drystone_operator.handlers.world import Watched
from drystone_operator.health import serving_health
from drystone_operator.metrics import OperatorMetrics
from drystone_operator.resources.base import Images, Platform
from drystone_operator.settings import OperatorSettings
from drystone_operator.wiring import Login, Wiring, kopf_settings
from drystone_storaged.agent.process import run_daemon

CRD_POLL_S: Final = 2.0  # the chart applies CRDs and operator together: seconds at most
NEEDED_IMAGES: Final = (
    "image",
    "provisioner_image",
    "attacher_image",
    "resizer_image",
    "registrar_image",
)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """How Kubernetes is reached: by kopf for watches, by our client for everything else."""

    kube: Kube
    login: Login
    transport: Transport = lambda: None


def platform(settings: OperatorSettings) -> Platform:
    """What resources are made from; a missing image is told at the start, not by a pod."""
    missing = [name for name in NEEDED_IMAGES if not getattr(settings, name)]
    if missing:
        raise InvalidArgumentError(
            f"settings without a value: {', '.join(missing)}",
            code="invalid_settings",
            hint="the chart sets them from its values; give each an image",
        )
    images = Images(
        drystone=settings.image,
        etcd=settings.etcd_image,
        provisioner=settings.provisioner_image,
        attacher=settings.attacher_image,
        resizer=settings.resizer_image,
        registrar=settings.registrar_image,
        snapshotter=settings.snapshotter_image,
        livenessprobe=settings.livenessprobe_image,
    )
    return Platform(
        images=images,
        driver=settings.driver_name,
        node_account=settings.node_service_account,
        csi_account=settings.csi_service_account,
        csi_node_account=settings.csi_node_service_account,
        tls=settings.tls,
        fuse_pods=settings.fuse_pods,
        beacon_pods=settings.beacon_pods,
    )


class Operator:
    """The pieces of one operator, wired."""

    def __init__(
        self,
        settings: OperatorSettings,
        access: Access,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.managers = Managers(
            timeout_s=settings.rest_timeout_s,
            urls=tuple(settings.manager_urls),
            transport=access.transport,
        )
        self.metrics = OperatorMetrics(Metrics("operator", __version__))
        self.wiring = Wiring(self.kick, access.login)
        watched = Watched(self.wiring.indexes)
        status = StatusWriter(access.kube, watched, _now_text)
        executors: dict[str, Executor] = {}

        def executor(namespace: str) -> Executor:
            if namespace not in executors:
                executors[namespace] = Executor(
                    access.kube, namespace, status=status, monotonic=monotonic,
                    reapply_s=settings.resync_s * 10,
                )  # fmt: skip
            return executors[namespace]

        self.failovers = Failovers(
            access.kube, self.managers, executor=executor, driver=settings.driver_name,
            monotonic=monotonic, now=_now, changed=self.kick,
        )  # fmt: skip
        shape = platform(settings)
        around = Around(access.kube, self.managers, shape, executor, self.failovers.decisions, _now)
        self.loops = Loops(
            watched, Rounds(around), self.failovers, self.metrics, platform=shape,
            resync_s=settings.resync_s, tick_s=settings.failover_tick_s, monotonic=monotonic,
        )  # fmt: skip
        self._kube = access.kube
        self._monotonic = monotonic
        self.health_address = ""

    def kick(self) -> None:
        """Something changed."""
        self.loops.kick()

    def healthy(self) -> bool:
        """Whether rounds come to their end."""
        return self.loops.pulse.recent(self._monotonic(), self.settings.healthy_s)

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Watch and look until stopped."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.managers.aclose)
            self.health_address = await stack.enter_async_context(
                serving_health(
                    self.settings.health_listen, healthy=self.healthy, render=self.metrics.render
                )
            )
            await self._crds()
            loops = asyncio.create_task(self.loops.run(), name="loops")
            stack.push_async_callback(_cancelled, loops)
            watching = asyncio.create_task(self._watch(stop), name="kopf")
            stack.push_async_callback(_cancelled, watching)
            done, _ = await asyncio.wait({loops, watching}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _crds(self) -> None:
        """Kopf looks for resources once: wait until ours are there."""
        path, told = f"/apis/{names.API_VERSION}", False
        while True:
            try:
                if await self._kube.get(path) is not None:
                    return
            except KubeError as error:
                _log.warning("kubernetes_unreachable", error=str(error))
            if not told:
                _log.warning("crds_missing", group=names.API_VERSION)
                told = True
            await asyncio.sleep(CRD_POLL_S)

    async def _watch(self, stop: asyncio.Event | None) -> None:
        await kopf.operator(
            registry=self.wiring.registry,
            settings=kopf_settings(self.settings.request_timeout_s),
            namespaces=self.settings.namespaces,
            # One replica with strategy Recreate: there is nobody to agree with.
            standalone=True,
            stop_flag=stop,
        )


async def serve(settings: OperatorSettings) -> None:
    """Serve until cancelled."""
    # Imported here: it costs 40 MiB and half a second, and no other command needs it.
    from drystone_operator.apply.kube_http import connected  # noqa: PLC0415

    async with connected(settings.request_timeout_s) as kube:
        await Operator(settings, Access(kube, _login)).run()


def run(config: Path | None) -> None:
    """Run `drystone operator` to its end."""
    settings = load_settings(OperatorSettings, file=config)
    configure_logging("operator", level=settings.log_level)
    # They tell of each event that is handed on and of each call; what matters is told by us.
    for noisy in ("kopf", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    run_daemon(lambda: serve(settings))


def _login(**kwargs: Any) -> Any:
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


def _now() -> datetime:
    return datetime.now(UTC)


def _now_text() -> str:
    return _now().strftime("%Y-%m-%dT%H:%M:%SZ")
