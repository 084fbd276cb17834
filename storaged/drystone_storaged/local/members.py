"""Who is in a local cluster, as `cluster.json` keeps it."""

from __future__ import annotations

import secrets
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drystone_common.errors import ConflictError, DataError, InvalidArgumentError, NotFoundError
from drystone_common.files import atomic_write_json, atomic_write_text, read_json, read_limited
from drystone_storaged.local import ports
from drystone_storaged.local.layout import Layout

VERSION: Final = 2
VERSION_SQLITE: Final = 1
"""What a cluster with one manager has, so that older programs go on with it. They would take one on
etcd for empty."""
MANAGERS_MAX: Final = 5  # one leads; five stand by for the loss of four machines
ETCD_MEMBERS: Final = 1  # of a machine: its loss takes every member anyway
SERVERS_MAX: Final = 63  # the design's limit of storage nodes
DRIVES_MAX: Final = 12  # a node
CONSUMERS_MAX: Final = 32  # enough for one machine
DRIVE_BYTES_MIN: Final = 2 << 30
"""A drive needs 16 segments of 64 MiB and its edges, so 1 GiB is just too small; some segments are
kept for cleaning, and below this little would be left for data."""


Metadata = Literal["sqlite", "etcd"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DriveMember(_Part):
    """A drive file."""

    port: int
    size: int


class ServerMember(_Part):
    """A storage node."""

    name: str
    beacon_port: int
    metrics_port: int
    beacon_metrics_port: int = 0
    drives: list[DriveMember]


class ConsumerMember(_Part):
    """A consuming node: block daemon and CSI plugin."""

    name: str
    number: int
    metrics_port: int


class ManagerMember(_Part):
    """The manager."""

    name: str = "manager-1"
    rest_port: int
    control_port: int
    metrics_port: int = 0

    def rest_url(self) -> str:
        """Where its management API is."""
        return f"http://{ports.HOST}:{self.rest_port}"


class EtcdMember(_Part):
    """A member of etcd."""

    name: str
    client_port: int
    peer_port: int


class Members(_Part):
    """Everybody. ``endpoints`` and ``token_file`` are for scripts; we compute them anew."""

    version: int = VERSION_SQLITE
    metadata: Metadata = "sqlite"
    manager: ManagerMember
    standbys: list[ManagerMember] = Field(default_factory=list)
    """Managers beside the first; any of them may lead."""
    etcd: list[EtcdMember] = Field(default_factory=list)
    servers: list[ServerMember] = Field(default_factory=list)
    consumers: list[ConsumerMember] = Field(default_factory=list)

    def ports(self) -> set[int]:
        """Every port in use."""
        found: set[int] = set()
        for manager in self.managers():
            found |= {manager.rest_port, manager.control_port, manager.metrics_port}
        for member in self.etcd:
            found |= {member.client_port, member.peer_port}
        for server in self.servers:
            found |= {server.beacon_port, server.metrics_port, server.beacon_metrics_port}
            found |= {d.port for d in server.drives}
        return found | {consumer.metrics_port for consumer in self.consumers}

    def managers(self) -> list[ManagerMember]:
        """Every manager."""
        return [self.manager, *self.standbys]

    def rest_urls(self) -> list[str]:
        """Where each manager's management API is."""
        return [manager.rest_url() for manager in self.managers()]

    def node_names(self) -> list[str]:
        """Everything that `start` and `stop` accept."""
        return [
            *(member.name for member in self.etcd),
            *(manager.name for manager in self.managers()),
            *(server.name for server in self.servers),
            *(consumer.name for consumer in self.consumers),
        ]

    def drive_count(self) -> int:
        """Drives of all servers."""
        return sum(len(server.drives) for server in self.servers)


class Wanted(_Part):
    """What `local up` was asked for; None = whatever there is, or the default."""

    servers: int | None = None
    drives: int | None = None
    drive_size: int | None = None
    consumers: int | None = None
    metadata: Metadata | None = None
    managers: int | None = None


DEFAULT_MANAGERS: Final[dict[Metadata, int]] = {"sqlite": 1, "etcd": 3}
DEFAULT_SERVERS: Final = 3
DEFAULT_DRIVES: Final = 1
DEFAULT_DRIVE_SIZE: Final = 8 * 10**9
DEFAULT_CONSUMERS: Final = 1


def load(layout: Layout) -> Members:
    """Read the members; NotFoundError where there is no cluster."""
    try:
        data = read_json(layout.cluster_file)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no cluster in {layout.root}",
            code="no_cluster",
            hint="run `drystone local up`, or name the folder with --dir or $DRYSTONE_DIR",
        ) from error
    except DataError as error:
        raise _damaged(layout, "it does not hold JSON") from error
    if not isinstance(data, dict):
        raise _damaged(layout, "it is not an object")
    version = data.get("version")
    if isinstance(version, int) and version > VERSION:
        raise DataError(
            f"{layout.cluster_file} has version {version}, this program knows {VERSION}",
            code="cluster_too_new",
            hint="run the newer version of the program",
        )
    fields = {key: data[key] for key in Members.model_fields if key in data}
    try:
        return Members.model_validate(fields)
    except ValidationError as error:
        raise _damaged(layout, str(error.errors()[0]["msg"])) from error


def save(layout: Layout, members: Members) -> None:
    """Write the members, with endpoints for scripts."""
    consumers = members.consumers
    endpoints = {
        "rest": members.manager.rest_url(),
        "rest_urls": members.rest_urls(),
        "control": f"{ports.HOST}:{members.manager.control_port}",
        "block": {c.name: str(layout.block_socket(c.name)) for c in consumers},
        "csi": {c.name: str(layout.csi_socket(c.number)) for c in consumers},
        "metrics": {
            name: f"http://{ports.HOST}:{port}/metrics"
            for name, port in [
                *((m.name, m.metrics_port) for m in members.managers()),
                *((s.name, s.metrics_port) for s in members.servers),
                *((f"{s.name}-beacon", s.beacon_metrics_port) for s in members.servers),
                *((c.name, c.metrics_port) for c in consumers),
            ]
        },
    }
    atomic_write_json(
        layout.cluster_file,
        {
            **members.model_dump(mode="json"),
            "endpoints": endpoints,
            "token_file": str(layout.token_file),
        },
    )


def ensure_tokens(layout: Layout) -> None:
    """Make the REST tokens before the manager starts, so that nobody has to fetch them.

    A manager that runs knows those of the file, so the CLI's own is taken from there.
    """
    admin = _admin_token(layout)
    if admin is None:
        tokens = {role: secrets.token_urlsafe(32) for role in ("read", "operate", "admin")}
        lines = [f"{role} {token}\n" for role, token in tokens.items()]
        atomic_write_text(layout.tokens_file, "".join(lines))
        admin = tokens["admin"]
    try:
        same = read_limited(layout.token_file, bytes_max=4096) == f"{admin}\n".encode()
    except (NotFoundError, DataError):
        same = False
    if not same:
        atomic_write_text(layout.token_file, f"{admin}\n")


def ensure_master(layout: Layout, members: Members) -> None:
    """Make the key that all managers share, with the cluster and never later.

    A single manager on SQLite makes its own, in its state folder.
    """
    if members.metadata == "sqlite" or layout.cluster_file.exists():
        return
    if not layout.master_file.exists():
        atomic_write_text(layout.master_file, f"{secrets.token_hex(32)}\n")


def _admin_token(layout: Layout) -> str | None:
    try:
        text = read_limited(layout.tokens_file).decode("utf-8", "replace")
    except NotFoundError:
        return None
    pairs = [line.split() for line in text.splitlines()]
    found = [words[1] for words in pairs if words[:1] == ["admin"] and len(words) == 2]  # noqa: PLR2004
    return found[0] if found else None


def found(layout: Layout, wanted: Wanted) -> Members:
    """Make the members of a new cluster; the folder must not hold anything else."""
    foreign = layout.foreign()
    if foreign:
        raise ConflictError(
            f"{layout.root} holds something that is not Drystone's: {', '.join(foreign[:5])}",
            code="folder_not_empty",
            hint="name an empty folder with --dir",
        )
    images = sorted(layout.drives.glob("*/*.img")) if layout.drives.is_dir() else []
    if images:
        raise ConflictError(
            f"{layout.root} has drive files but no cluster.json",
            code="cluster_file_missing",
            hint="put cluster.json back, or `drystone local destroy` if the data is not needed",
        )
    return grow(_head(wanted), wanted)


def _head(wanted: Wanted) -> Members:
    """Managers and their store, which stay as they are for the life of the cluster."""
    metadata = wanted.metadata or "sqlite"
    count = wanted.managers if wanted.managers is not None else DEFAULT_MANAGERS[metadata]
    most = MANAGERS_MAX if metadata == "etcd" else 1
    if not 1 <= count <= most:
        raise InvalidArgumentError(
            f"{count} managers are not possible on {metadata}",
            code="invalid_count",
            hint=f"give 1 to {MANAGERS_MAX} with --metadata etcd; SQLite is the file of one",
        )
    found = ports.pick(3 * count + 2 * ETCD_MEMBERS, ())
    managers = [
        ManagerMember(name=f"manager-{n + 1}", rest_port=a, control_port=b, metrics_port=c)
        for n, (a, b, c) in enumerate(zip(*[iter(found[: 3 * count])] * 3, strict=True))
    ]
    if metadata == "sqlite":
        return Members(manager=managers[0])
    client, peer = found[3 * count :]
    etcd = [EtcdMember(name="etcd-1", client_port=client, peer_port=peer)]
    return Members(
        version=VERSION, metadata=metadata, manager=managers[0], standbys=managers[1:], etcd=etcd
    )


def _check_head(members: Members, wanted: Wanted) -> None:
    have = len(members.managers())
    if wanted.metadata not in (None, members.metadata) or wanted.managers not in (None, have):
        raise ConflictError(
            f"the cluster has {have} managers on {members.metadata}",
            code="cannot_change",
            hint="leave --metadata and --managers out to keep them, or `drystone local destroy`",
        )


def grow(members: Members, wanted: Wanted) -> Members:
    """Add what is wanted and not there; less than there is cannot be asked for."""
    _check_head(members, wanted)
    servers = _count("servers", wanted.servers, len(members.servers), DEFAULT_SERVERS, SERVERS_MAX)
    have = min((len(s.drives) for s in members.servers), default=0)
    drives = _count("drives", wanted.drives, have, DEFAULT_DRIVES, DRIVES_MAX)
    consumers = _count(
        "consumers", wanted.consumers, len(members.consumers), DEFAULT_CONSUMERS, CONSUMERS_MAX
    )
    size = wanted.drive_size or DEFAULT_DRIVE_SIZE
    if size < DRIVE_BYTES_MIN:
        raise InvalidArgumentError(
            f"a drive of {size} bytes is too small",
            code="drive_too_small",
            hint=f"give --drive-size at least {DRIVE_BYTES_MIN // (1 << 30)}Gi",
        )
    size -= size % 4096
    taken = members.ports()

    def port() -> int:
        (chosen,) = ports.pick(1, taken)
        taken.add(chosen)
        return chosen

    new_servers = []
    for number in range(1, servers + 1):
        old = members.servers[number - 1] if number <= len(members.servers) else None
        more = drives - (len(old.drives) if old else 0)
        added = [DriveMember(port=port(), size=size) for _ in range(more)]
        if old is not None:
            beacon = old.beacon_metrics_port or port()
            update = {"drives": [*old.drives, *added], "beacon_metrics_port": beacon}
            new_servers.append(old.model_copy(update=update))
            continue
        new_servers.append(
            ServerMember(
                name=f"node-{number}",
                beacon_port=port(),
                metrics_port=port(),
                beacon_metrics_port=port(),
                drives=added,
            )
        )
    new_consumers = [
        ConsumerMember(name=f"block-{number}", number=number, metrics_port=port())
        for number in range(len(members.consumers) + 1, consumers + 1)
    ]
    return members.model_copy(
        update={"servers": new_servers, "consumers": [*members.consumers, *new_consumers]}
    )


def _count(what: str, wanted: int | None, have: int, default: int, limit: int) -> int:
    count = wanted if wanted is not None else (have or default)
    least = 0 if what == "consumers" else 1
    if not least <= count <= limit:
        raise InvalidArgumentError(
            f"{count} {what} are not possible",
            code="invalid_count",
            hint=f"give {least} to {limit}",
        )
    if count < have:
        raise ConflictError(
            f"the cluster has {have} {what}, not {count}",
            code="cannot_shrink",
            hint=f"leave --{what} out to keep them, or `drystone local destroy` first",
        )
    return count


def _damaged(layout: Layout, why: str) -> DataError:
    return DataError(
        f"{layout.cluster_file} is damaged: {why}",
        code="file_damaged",
        hint="restore it from a backup: nodes and drive sizes are in it, without it nothing starts",
    )
