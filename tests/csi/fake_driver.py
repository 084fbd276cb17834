"""Serves the driver: ``python -m tests.csi.fake_driver SOCKET FOLDER [MANAGER_URL TOKEN]``.

Without a manager's address a fake one is used. The block daemon is a fake in either case.

Devices are real loop devices, so file systems and mounts are real too. Ends at SIGTERM or when
standard input closes.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from drystone_csi.manager_rest import RestManager
from drystone_csi.server import Services, serving
from tests.csi.fakes import FakeManager, LoopBlock


async def main(socket: Path, folder: Path, *real: str) -> None:
    manager = RestManager(*real) if real else FakeManager()
    block = LoopBlock(manager, folder)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serving(Services(manager, block), socket):
        print("serving", flush=True)
        await stop.wait()
    for volume_id in list(block.attachments):
        await block.detach(volume_id)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
