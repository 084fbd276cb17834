"""What goes into a bundle from a local cluster, or from a plain installation's folders."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from drystone_cli.bundle.parts import Part
from drystone_common.errors import DrystoneError, UnavailableError
from drystone_common.files import read_json, read_limited
from drystone_storaged.agent.bounded import ask
from drystone_storaged.local.cluster import LocalCluster
from drystone_storaged.local.layout import Layout

LOG_BYTES_MAX: Final = 16 << 20  # of each, from its end: as large as our own ever grow
FILES_MAX: Final = 500  # of a folder that was named: more is the wrong folder
METRICS_S: Final = 5.0
METRICS_BYTES_MAX: Final = 16 << 20  # a page of ours is below 1 MiB
SECRET_BYTES_MAX: Final = 64 << 10


def folder_parts(root: Path, since: float) -> Iterator[Part]:
    """Settings, state, logs and metrics of `drystone local`."""
    layout = Layout(root)
    yield Part("local/status.json", lambda: LocalCluster(root).status())
    yield Part("local/cluster.json", lambda: read_json(layout.cluster_file))
    yield Part("local/files.txt", lambda: listing(root))
    for file in sorted((root / "conf").glob("*.toml")):
        yield Part(f"local/conf/{file.name}", _text(file))
    for file in sorted((root / "log").glob("*.log*")):
        yield Part(f"logs/{file.name}", _log(file, since))
    with contextlib.suppress(DrystoneError, KeyError, TypeError, AttributeError):
        data: Any = read_json(layout.cluster_file)
        for name, url in (data["endpoints"].get("metrics") or {}).items():
            yield Part(f"metrics/{name}.txt", _metrics(str(url)))


def log_parts(paths: Sequence[Path], since: float) -> Iterator[Part]:
    """Log files, or folders of them, that were named."""
    for path in paths:
        files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
        for file in files[:FILES_MAX]:
            yield Part(f"logs/{file.absolute().as_posix().lstrip('/')}", _log(file, since))


def known_secrets(root: Path) -> list[str]:
    """Values that lie in a local cluster's files: they are taken out wherever they stand."""
    layout = Layout(root)
    files = [layout.token_file, layout.tokens_file, layout.master_file]
    files += [*root.glob("state/*/master.key"), *root.glob("state/*/tokens")]
    files += [*root.glob("conf/*.join"), *root.glob("state/*/*.json")]
    found: list[str] = []
    for file in files:
        with contextlib.suppress(DrystoneError, OSError):
            text = read_limited(file, bytes_max=SECRET_BYTES_MAX).decode(errors="replace")
            found += _credentials(text) if file.suffix == ".json" else text.split()
    return [word for word in found if word not in ("read", "operate", "admin")]


def _credentials(text: str) -> list[str]:
    try:
        data = json.loads(text)
    except ValueError:
        return []
    value = data.get("credential") if isinstance(data, dict) else None
    return [value] if isinstance(value, str) else []


def listing(root: Path) -> str:
    """Names, sizes and times of a folder's files; never their content."""
    lines = []
    for path in sorted(root.rglob("*")):
        with contextlib.suppress(OSError):
            known = path.lstat()
            stamp = datetime.fromtimestamp(known.st_mtime, UTC).isoformat(timespec="seconds")
            lines.append(f"{known.st_size:>14} {stamp} {path.relative_to(root)}")
    return "\n".join(lines) + "\n"


def newer(text: str, since: float) -> str:
    """Lines of a log from a moment on; a line without a readable stamp stays with those around."""
    kept: list[str] = []
    keep = True
    for line in text.splitlines():
        moment = _moment(line)
        keep = keep if moment is None else moment >= since
        if keep:
            kept.append(line)
    return "\n".join(kept) + "\n"


def _moment(line: str) -> float | None:
    if not line.startswith("{"):
        return None
    try:
        return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return None


def _log(file: Path, since: float) -> Callable[[], str]:
    def read() -> str:
        try:
            with file.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(size - LOG_BYTES_MAX, 0))
                data = stream.read(LOG_BYTES_MAX)
        except OSError as error:
            raise UnavailableError(str(error)) from error
        return newer(data.decode(errors="replace"), since)

    return read


def _text(file: Path) -> Callable[[], str]:
    return lambda: read_limited(file).decode(errors="replace")


def _metrics(url: str) -> Callable[[], str]:
    def read() -> str:
        try:
            with httpx.Client(trust_env=False) as client:
                limit = METRICS_BYTES_MAX
                return ask(client, "GET", url, bytes_max=limit, within_s=METRICS_S).text
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnavailableError(f"{url}: {error!r}") from error

    return read
