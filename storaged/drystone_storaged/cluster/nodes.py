"""Names bound to uuids: storage nodes and consuming nodes, join tokens, forgetting."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    NotFoundError,
    UnauthenticatedError,
)
from drystone_common.ids import parse_name
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.maprecords import Kind, read_drives
from drystone_storaged.cluster.records import Drive, DriveState, JoinToken, Node, Voters
from drystone_storaged.cluster.store import Compare, Delete, KeyValue, MetadataStore, Op, Put
from drystone_storaged.cluster.txn import read_all, read_record, retrying
from drystone_storaged.cluster.wanted import WantedService

Role = Literal["server", "client", "beacon"]


@dataclass(frozen=True, slots=True)
class Registration:
    """What a process says of itself."""

    role: Role
    node: Node
    token: str = ""
    authenticated: bool = False


def token_digest(token: str) -> str:
    """Tokens are stored by digest only: the store's backup opens nothing."""
    return hashlib.sha256(token.encode()).hexdigest()


def node_key(role: Role, uuid_hex: str) -> str:
    """Where a node's record lies."""
    return {"server": keys.node, "client": keys.client, "beacon": keys.beacon}[role](uuid_hex)


def name_key(role: Role, name: str) -> str:
    """The index from a name; a beacon has the name of its storage node."""
    return keys.name("beacon" if role == "beacon" else "node", name)


class NodeService:
    """Registration and removal of nodes."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def add_join_token(self, token: str, role: Role, name: str = "") -> None:
        """Store a join token; the caller made it and hands it to the node."""
        if name:
            parse_name(name, "node name")
        record = encode(JoinToken(role, name))
        await self._store.txn([], [Put(keys.join_token(token_digest(token)), record)])

    async def register(self, wanted: Registration) -> Node:
        """Bind name and uuid, or confirm that they are bound; idempotent."""
        parse_name(wanted.node.name, "node name")

        async def attempt() -> Node | None:
            key = node_key(wanted.role, wanted.node.uuid)
            bound = await self._store.get(key)
            if bound is not None:
                return await self._refresh(wanted, bound)
            return await self._bind(wanted, key)

        return await retrying(attempt, f"node {wanted.node.name}")

    async def _refresh(self, wanted: Registration, bound: KeyValue) -> Node | None:
        old = decode(Node, bound.value)
        if old.name != wanted.node.name:
            raise AlreadyExistsError(
                f"this node is registered as {old.name}",
                code="node_renamed",
                hint="start it with its old name, or run "
                f"`drystone node forget {old.name} --yes` first",
            )
        if not wanted.authenticated and not await self._spent_here(wanted):
            raise UnauthenticatedError(
                "the join token is not valid",
                code="join_token_invalid",
                hint="start with the credential in the state folder, or get a new join token",
            )
        new = wanted.node
        if not new.beacon_addr:
            # Of a server whose beacon is a process of its own: that one says where it listens.
            new = replace(new, beacon_addr=old.beacon_addr)
        if old == new:
            return old
        done = await self._store.txn(
            [Compare.mod(bound.key, bound.mod_revision)], [Put(bound.key, encode(new))]
        )
        return new if done.succeeded else None

    async def _spent_here(self, wanted: Registration) -> bool:
        # An answer may have been lost: the token that bound this uuid is accepted again.
        found = await self._store.get(f"/spent/{token_digest(wanted.token)}")
        return found is not None and found.value == wanted.node.uuid.encode()

    async def _bind(self, wanted: Registration, key: str) -> Node | None:
        token_key = keys.join_token(token_digest(wanted.token))
        token = await read_record(self._store, token_key, JoinToken)
        if (
            token is None
            or token[0].role != wanted.role
            or (token[0].name not in ("", wanted.node.name))
        ):
            raise UnauthenticatedError(
                "the join token is not valid",
                code="join_token_invalid",
                hint="get a new one from the manager; each admits one node",
            )
        index = name_key(wanted.role, wanted.node.name)
        taken = await self._store.get(index)
        if taken is not None:
            raise AlreadyExistsError(
                f"the name {wanted.node.name} belongs to another node",
                code="node_name_taken",
                hint=f"run `drystone node forget {wanted.node.name} --yes` "
                "if that one is gone for good",
            )
        done = await self._store.txn(
            [
                Compare.absent(index),
                Compare.absent(key),
                Compare.mod(token_key, token[1].mod_revision),
            ],
            [
                Put(index, f"{wanted.role}/{wanted.node.uuid}".encode()),
                Put(key, encode(wanted.node)),
                Delete(token_key),
                Put(f"/spent/{token_digest(wanted.token)}", wanted.node.uuid.encode()),
            ],
        )
        return wanted.node if done.succeeded else None

    async def find(self, name: str) -> tuple[Role, Node]:
        """A node of either kind by name."""
        index = await self._store.get(keys.name("node", name)) if keys.nameable(name) else None
        if index is not None:
            role_text, _, uuid_hex = index.value.decode().partition("/")
            role: Role = "server" if role_text == "server" else "client"
            found = await read_record(self._store, node_key(role, uuid_hex), Node)
            if found is not None:
                return role, found[0]
        raise NotFoundError(
            f"there is no node {name[:80]!a}",
            code="node_not_found",
            hint="see `drystone node list`",
        )

    async def served(self, name: str) -> Node:
        """The storage node for which a beacon of this name speaks."""
        index = await self._store.get(keys.name("node", name)) if keys.nameable(name) else None
        role, _, uuid_hex = index.value.decode().partition("/") if index else ("", "", "")
        node = await self.by_uuid("server", uuid_hex) if role == "server" else None
        if node is None:
            raise ConflictError(
                f"there is no storage node {name[:80]!a} yet",
                code="node_not_registered",
                hint="start `drystone server` with this name; the beacon waits for it",
            )
        return node

    async def listens(self, node: Node, beacon_addr: str) -> None:
        """Record where the beacon of a storage node listens."""

        async def attempt() -> Node | None:
            key = node_key("server", node.uuid)
            found = await read_record(self._store, key, Node)
            if found is None or found[0].beacon_addr == beacon_addr:
                return node
            new = replace(found[0], beacon_addr=beacon_addr)
            done = await self._store.txn(
                [Compare.mod(key, found[1].mod_revision)], [Put(key, encode(new))]
            )
            return new if done.succeeded else None

        await retrying(attempt, f"beacon of node {node.name}")

    async def by_uuid(self, role: Role, uuid_hex: str) -> Node | None:
        """A node by identity; None = never registered, or forgotten."""
        found = await read_record(self._store, node_key(role, uuid_hex), Node)
        return found[0] if found else None

    async def list(self, role: Role) -> list[Node]:
        """All nodes of a kind; at most some thousand."""
        prefixes = {"server": keys.NODES, "client": keys.CLIENTS, "beacon": keys.BEACONS}
        return await read_all(self._store, prefixes[role], Node)

    async def forget(self, name: str) -> tuple[Role, Node]:
        """Remove a node for good; its drives become gone. Refused while it is needed."""
        role, node = await self.find(name)
        ops: list[Op] = [Delete(keys.name("node", name)), Delete(node_key(role, node.uuid))]
        compares: list[Compare] = []
        if role == "server":
            ops.append(Delete(keys.maintenance(node.uuid)))
            beacon = await self._store.get(name_key("beacon", name))
            if beacon is not None:
                uuid = beacon.value.decode().partition("/")[2]
                ops += [Delete(beacon.key), Delete(node_key("beacon", uuid))]
            # Together with the node, or its devices could be wanted nowhere ever again.
            wanted_compares, wanted_ops = await WantedService(self._store).forgetting(node.uuid)
            compares += wanted_compares
            ops += wanted_ops
            for drive in await self._all_drives():
                if drive.node == node.uuid and drive.state is not DriveState.GONE:
                    key = keys.drive(drive.id)
                    found = await self._store.get(key)
                    compares.append(Compare.mod(key, found.mod_revision if found else 0))
                    gone = replace(drive, state=DriveState.GONE, reason="node forgotten")
                    ops.append(Put(key, encode(gone)))
        done = await self._store.txn(compares, ops)
        if not done.succeeded:
            raise ConflictError(f"node {name} changed meanwhile; try again", code="contended")
        return role, node

    async def _all_drives(self) -> Sequence[Drive]:
        drives, refused = await read_drives(self._store)
        bad = next((r for r in refused if r.kind is Kind.DRIVE), None)
        if bad is not None:
            raise DataError(
                f"the record {bad.key} in the metadata store cannot be read: whether that drive "
                "is the node's is not known",
                code="record_damaged",
                hint="repair the record that `drystone status` names, then repeat",
            )
        return drives


async def change_voters(
    store: MetadataStore, voters: Voters, nodes: tuple[str, ...]
) -> Voters | None:
    """Put other nodes in the place of a list just read; None = somebody changed it meanwhile."""
    found = await read_record(store, keys.VOTERS, Voters)
    if found is not None and found[0] != voters:
        return None
    revision = found[1].mod_revision if found else 0
    new = Voters(voters.version + 1, nodes)
    done = await store.txn([Compare.mod(keys.VOTERS, revision)], [Put(keys.VOTERS, encode(new))])
    return new if done.succeeded else None
