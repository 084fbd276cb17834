"""`drystone bundle`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from drystone_cli.context import Cluster, chosen_dir, connected, find_cluster
from drystone_cli.kube import target
from drystone_cli.output import Output, OutputOption, emit, progress, size
from drystone_common import __version__
from drystone_common.errors import DrystoneError

REST_S: Final = 10.0  # a part that takes longer is noted as failed, the others go on


def bundle(
    file: Annotated[
        Path | None,
        typer.Option(
            help="File to write; default: drystone-bundle-TIME.tar.gz here.", show_default=False
        ),
    ] = None,
    since: Annotated[str, typer.Option(help="How far back logs go: 90s, 30m, 2h, 1d.")] = "24h",
    log: Annotated[
        list[Path] | None,
        typer.Option(help="A further log file, or a folder of them. Repeatable."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Gather what support asks for into one file: state, logs, metrics, settings, findings.

    Secrets are taken out. What cannot be had is listed in its errors.txt; the rest is there.

    For example:

      drystone bundle --since 2h

      drystone --kube bundle
    """
    from drystone_cli.bundle.archive import Archive  # noqa: PLC0415 - only this command
    from drystone_cli.bundle.parts import parse_since  # noqa: PLC0415 - as above

    now = time.time()
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"drystone-bundle-{stamp}"
    chosen = file or Path(f"{name}.tar.gz")
    with gathered(parse_since(since), log or (), now) as found:
        parts, redactor, failures = found
        with Archive(chosen, name, redactor, now) as archive:
            archive.add("version.json", {"drystone": __version__, "made": stamp, "since": since})
            for failure in failures:
                archive.failed(*failure)
            fill(archive, parts)
    shown = {"file": str(chosen.absolute()), "bytes": chosen.stat().st_size}
    data = shown | {"parts": archive.parts, "errors": archive.errors}
    emit(output, data, _text(data))


@contextmanager
def gathered(since_s: int, logs: Iterable[Path], now: float) -> Iterator[tuple[Any, Any, Any]]:
    """Parts to read, what takes secrets out of them, and what failed already."""
    from drystone_cli.bundle import local_parts  # noqa: PLC0415 - only this command
    from drystone_cli.bundle.parts import rest_parts  # noqa: PLC0415 - as above
    from drystone_cli.bundle.redact import Redactor  # noqa: PLC0415 - as above

    chosen = target.chosen()
    if chosen is not None:
        from drystone_cli.bundle import kube_command  # noqa: PLC0415 - only with Kubernetes

        with kube_command.gathered(chosen, since_s) as found:
            yield found
        return
    failures: list[tuple[str, str]] = []
    folder = chosen_dir(None)
    with ExitStack() as stack:
        parts = [local_doctor()]
        secrets = local_parts.known_secrets(folder)
        try:
            cluster: Cluster = find_cluster()
            secrets.append(cluster.token)
            parts += rest_parts(stack.enter_context(connected(cluster, REST_S)))
        except DrystoneError as error:
            failures.append(("rest", str(error)))
        if (folder / "cluster.json").exists():
            parts += local_parts.folder_parts(folder, now - since_s)
        parts += local_parts.log_parts(list(logs), now - since_s)
        yield parts, Redactor(secrets), failures


def local_doctor() -> Any:
    """The part with what `drystone doctor` finds on this machine."""
    from drystone_cli.bundle.parts import Part  # noqa: PLC0415 - only this command
    from drystone_cli.doctor import gather, node_checks  # noqa: PLC0415 - as above
    from drystone_cli.doctor.findings import answer  # noqa: PLC0415 - as above

    def read() -> dict[str, Any]:
        facts = gather.gather()
        return answer(node_checks.check_node(facts)) | {"facts": facts.as_dict()}

    return Part("doctor.json", read)


def fill(archive: Any, parts: Iterable[Any]) -> None:
    """Read every part; one that fails is noted."""
    listed = list(parts)
    with progress("bundle") as advance:
        for number, part in enumerate(listed):
            advance(number, len(listed), part.path)
            try:
                archive.add(part.path, part.read())
            except DrystoneError as error:
                archive.failed(part.path, str(error))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                # A part of another version, or a defect of ours: the others must not miss for it.
                archive.failed(part.path, repr(error))
        advance(len(listed), len(listed), "")


def _text(data: dict[str, Any]) -> str:
    folders: dict[str, int] = {}
    for path in data["parts"]:
        top = path.partition("/")[0]
        folders[top] = folders.get(top, 0) + 1
    content = ", ".join(f"{top} ({n})" if n > 1 else top for top, n in folders.items())
    lines = [
        f"{len(data['parts'])} parts: {content}",
        f"could not be had: {len(data['errors'])}, see errors.txt" if data["errors"] else "",
        "secrets were taken out; look it through before you give it away",
        f"{data['file']} ({size(data['bytes'])})",
    ]
    return "\n".join(line for line in lines if line)
