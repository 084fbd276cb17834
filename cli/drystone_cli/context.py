"""Which cluster a command means: a local folder, or a manager named by its address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from drystone_cli import named
from drystone_cli.kube import target as kube_target
from drystone_cli.named import TOKEN_FILE_VARIABLE, URL_VARIABLE
from drystone_common.errors import (
    DataError,
    DeadlineError,
    DeniedError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from drystone_common.files import read_json
from drystone_common.settings import DIR_VARIABLE, state_dir
from drystone_storaged.agent.rest import TIMEOUT_S, Rest, read_token

DirOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        help=f"Folder of the cluster; default ${DIR_VARIABLE}, then one in your state folder.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach a cluster. ``block`` is the socket of each block daemon on this machine."""

    url: str
    """Addresses of the managers, with commas between them."""
    token: str
    block: dict[str, str] = field(default_factory=dict)
    kube: kube_target.Target | None = None
    """Set where it runs in Kubernetes: then addresses and tokens are found there."""
    ca_file: Path | None = None
    """CA certificates of the managers; None = the system's."""


def chosen_dir(given: Path | None) -> Path:
    """The folder that a command means."""
    return (given or state_dir()).expanduser().absolute()


def find_cluster() -> Cluster:
    """In Kubernetes if the command line says so, else from ``$DRYSTONE_URL`` or the folder."""
    target = kube_target.chosen()
    if target is not None:
        return Cluster("", "", kube=target)
    url = os.environ.get(URL_VARIABLE)
    if url:
        token_file = named.token_file()
        if token_file is None:
            raise InvalidArgumentError(
                f"{URL_VARIABLE} is set, {TOKEN_FILE_VARIABLE} is not",
                code="no_token",
                hint=f"set {TOKEN_FILE_VARIABLE} to a file with a token of that manager",
            )
        if not all(part.startswith(("http://", "https://")) for part in _parts(url)):
            raise InvalidArgumentError(
                f"{URL_VARIABLE} is {url!a}, which is no address",
                code="invalid_url",
                hint="write it like http://127.0.0.1:8460; several managers with commas",
            )
        return Cluster(url, _token(token_file), ca_file=named.ca_file())
    file = state_dir() / "cluster.json"
    try:
        data = read_json(file)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no cluster in {file.parent}",
            code="no_cluster",
            hint=f"run `drystone local up`, or set {DIR_VARIABLE} or {URL_VARIABLE}",
        ) from error
    try:
        return _parse(data)
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged: {error!r}", code="file_damaged") from error


def _parts(url: str) -> list[str]:
    return [part.strip() for part in url.split(",")]


def _parse(data: Any) -> Cluster:
    endpoints = data["endpoints"]
    urls = endpoints.get("rest_urls") or [endpoints["rest"]]
    return Cluster(
        ",".join(map(str, urls)), _token(Path(data["token_file"])), dict(endpoints["block"])
    )


def _token(path: Path) -> str:
    try:
        return read_token(path)
    except NotFoundError as error:
        raise NotFoundError(error.message, code="no_token", hint=_TOKEN_HINT) from error


_TOKEN_HINT: Final = (
    f"for a local cluster `drystone local up` writes the token anew; else {TOKEN_FILE_VARIABLE} "
    "names a file with one token of the manager's `tokens` file"
)


def _rest(cluster: Cluster, timeout_s: float) -> Rest:
    return Rest(_parts(cluster.url), cluster.token, timeout_s=timeout_s, ca_file=cluster.ca_file)


@contextmanager
def connected(cluster: Cluster, timeout_s: float = TIMEOUT_S) -> Iterator[Rest]:
    """A client of a cluster's manager; a refused token is told with what to do here."""
    if cluster.kube is not None:
        with _in_kubernetes(cluster.kube, timeout_s) as rest:
            yield rest
        return
    with _rest(cluster, timeout_s) as rest:
        try:
            yield rest
        except (UnauthenticatedError, DeniedError) as error:
            raise type(error)(error.message, code=error.code, hint=_TOKEN_HINT) from error


@contextmanager
def _in_kubernetes(target: kube_target.Target, timeout_s: float) -> Iterator[Rest]:
    from drystone_cli.kube import reach  # noqa: PLC0415 - other command lines do not need it

    with reach.manager(target, timeout_s) as rest:
        try:
            yield rest
        except (UnavailableError, DeadlineError) as error:
            if "drystone local" not in (error.hint or ""):
                raise
            hint = "see `kubectl get pods` in its namespace; volumes in use go on without managers"
            raise type(error)(error.message, code=error.code, hint=hint) from error


@contextmanager
def manager(timeout_s: float = TIMEOUT_S) -> Iterator[Rest]:
    """A client of the manager that the environment means."""
    with connected(find_cluster(), timeout_s) as rest:
        yield rest
