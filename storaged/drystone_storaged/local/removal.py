"""Takes away what a cluster made beside its processes: devices, lease pages, folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from drystone_common.errors import (
    ConflictError,
    DataError,
    DeadlineError,
    NotFoundError,
    UnavailableError,
)
from drystone_storaged.local import configs
from drystone_storaged.local.health import Notify
from drystone_storaged.local.layout import Layout
from drystone_storaged.local.members import Members, load
from drystone_storaged.local.processes import Process, Processes


class Removal:
    """Takes away what one cluster's processes made. ``notify`` is told what happens."""

    def __init__(self, layout: Layout, processes: Processes, notify: Notify) -> None:
        self._layout = layout
        self._processes = processes
        self._notify = notify

    def refuse_foreign(self) -> None:
        """Nothing is removed from a folder that holds no cluster."""
        ours = [name for name in ("cluster.json", "drives", "conf", "run") if
                (self._layout.root / name).exists()]  # fmt: skip
        if not ours and self._layout.foreign():
            raise NotFoundError(
                f"there is no cluster in {self._layout.root}", code="no_cluster",
                hint="name the folder with --dir or $DRYSTONE_DIR",
            )  # fmt: skip

    def what_there_is(self, *, force: bool) -> tuple[list[str], list[Process]]:
        """Consumers and processes; by what lies in the folder where its list is damaged."""
        try:
            members = load(self._layout)
        except (NotFoundError, DataError) as error:
            if isinstance(error, DataError) and not force:
                raise
            return self._layout.consumers_by_files(), self._processes.by_files()
        return [c.name for c in members.consumers], configs.processes(members)

    def detach(self, consumers: list[str], *, force: bool) -> None:
        """Let the block daemons that run detach everything."""
        from drystone_storaged.local import devices  # noqa: PLC0415 - gRPC is slow to import

        for name in consumers:
            process = Process(name, "block", name)
            if self._processes.state(process) != "running":
                continue
            try:
                found = devices.detach_all(self._layout.block_socket(name), force=force)
            except (UnavailableError, DeadlineError) as error:
                # What a daemon without servers cannot detach in order is removed below.
                self._notify(f"{name}: {error.message}")
                continue
            for line in found.left:
                # The daemon ends next, and what it leaves is removed then.
                self._notify(f"{name}: {line}")
            if found.detached:
                self._notify(f"{name}: detached {found.detached}")

    def drop_dead_devices(self, members: Members) -> None:
        """Live devices stay for the next `up`; one whose FUSE process was killed is of no use."""
        for consumer in members.consumers:
            state = self._layout.state(consumer.name)
            if not (state / "fuse").is_dir():
                continue
            from drystone_storaged.local import devices  # noqa: PLC0415 - slow to import

            for name in devices.drop_dead(state):
                self._notify(f"{consumer.name}: removed /dev/{name}, its FUSE process was dead")

    def remove_devices(self, consumers: list[str], *, force: bool) -> None:
        """Those that are left when no daemon runs; forced, one that stays is only told."""
        from drystone_storaged.local import devices  # noqa: PLC0415 - gRPC is slow to import

        for name in consumers:
            failed = devices.remove_left(self._layout.state(name))
            for line in failed if force else ():
                self._notify(f"{name}: a device stays: {line}")
            if failed and not force:
                raise ConflictError(
                    f"devices of {name} cannot be removed: {'; '.join(failed)}",
                    code="device_busy",
                    hint="unmount them and close what has them open, then repeat",
                )

    def remove_pages(self) -> None:
        """They lie outside of the folder, in memory; without processes they mean nothing."""
        if self._layout.beacon_runs.parent != self._layout.root:
            shutil.rmtree(self._layout.beacon_runs, ignore_errors=True)

    def remove(self, folder: Path) -> None:
        """A folder with everything in it."""
        if not folder.is_dir():
            return
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise ConflictError(
                f"{error.filename or folder} cannot be removed: {error.strerror}",
                code="device_busy",
                hint="unmount what is mounted below the folder, then repeat",
            ) from error
