"""Entry of `drystone manager`: one TOML file, then run until SIGTERM."""

from __future__ import annotations

from pathlib import Path

from drystone_common.settings import load_settings
from drystone_storaged.manager.app import main
from drystone_storaged.manager.settings import ManagerSettings


def run(config: Path) -> None:
    """Run a manager with the settings of ``config``; returns after an orderly stop."""
    main(load_settings(ManagerSettings, file=config))
