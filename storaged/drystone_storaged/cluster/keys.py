"""Where everything lies in the metadata store. No other module spells a key."""

from __future__ import annotations

from typing import Final

LEADER: Final = "/leader"
INCARNATION: Final = "/incarnation"
FEATURE_LEVEL: Final = "/feature_level"
CLUSTER: Final = "/cluster"
MASTER: Final = "/master"
"""A fingerprint of the master key: managers with another key must not take part."""
VOTERS: Final = "/voters"
RECOVERY: Final = "/recovery"
"""Stands while a recovery is under way: no manager leads such a store."""

POOLS: Final = "/pool/"
VOLUMES: Final = "/vol/"
LAYERS: Final = "/layer/"
NODES: Final = "/node/"
CLIENTS: Final = "/client/"
BEACONS: Final = "/beacon/"
DRIVES: Final = "/drive/"
ORDERS: Final = "/order/"
SUSPECTS: Final = "/suspect/"
TASKS: Final = "/task/"
JOIN_TOKENS: Final = "/join/"
WANTED: Final = "/wanted/"
MAINTENANCE: Final = "/maintenance/"
EVENTS: Final = "/event/"
HEALTH: Final = "/health/"
SCRUBS: Final = "/scrub/"
COMPARES: Final = "/compare/"


NAME_MAX: Final = 63
"""Names are no longer; an id in text form is shorter."""


def nameable(text: str) -> bool:
    """Whether a text from outside may be looked up as a name at all."""
    return 1 <= len(text) <= NAME_MAX and text.isascii() and text.isprintable()


def pool(pool_id: int) -> str:
    """Properties of a pool."""
    return f"{POOLS}{pool_id:04x}/info"


def pool_use(pool_id: int) -> str:
    """Written by every new volume of a pool: a delete sees that one came meanwhile."""
    return f"/pool-use/{pool_id:04x}"


def shard(pool_id: int, index: int) -> str:
    """256 PG records of a pool."""
    return f"{POOLS}{pool_id:04x}/map/{index:03x}"


def shards(pool_id: int) -> str:
    """Prefix of a pool's shards."""
    return f"{POOLS}{pool_id:04x}/map/"


def volume(volume_id: int) -> str:
    """A volume's record."""
    return f"{VOLUMES}{volume_id:016x}"


def layer(layer_id: int) -> str:
    """A layer's record."""
    return f"{LAYERS}{layer_id:016x}"


def child(parent: int, child_id: int) -> str:
    """One child of a layer: a key each, so that a golden image is not one contended key."""
    return f"/child/{parent:016x}/{child_id:016x}"


def name(kind: str, text: str) -> str:
    """Index from a name to an id, written with the object."""
    return f"/name/{kind}/{text}"


def node(uuid_hex: str) -> str:
    """A storage node."""
    return f"{NODES}{uuid_hex}"


def client(uuid_hex: str) -> str:
    """A consuming node's block daemon."""
    return f"{CLIENTS}{uuid_hex}"


def beacon(uuid_hex: str) -> str:
    """The beacon process of a storage node."""
    return f"{BEACONS}{uuid_hex}"


def drive(drive_id: int) -> str:
    """A drive's record; never deleted, because ids are never reused."""
    return f"{DRIVES}{drive_id:08x}"


def health(drive_id: int) -> str:
    """What is held against a drive; not below ``/drive/``, whose values are all drives."""
    return f"{HEALTH}{drive_id:08x}"


def orders(pool_id: int) -> str:
    """Prefix of the orders to a pool's drives."""
    return f"{ORDERS}{pool_id:04x}/"


def order(pool_id: int, number: int) -> str:
    """An order to a pool's drives."""
    return f"{ORDERS}{pool_id:04x}/{number:016x}"


def suspect(node_hex: str) -> str:
    """A suspicion that stands."""
    return f"{SUSPECTS}{node_hex}"


def task(task_id: int) -> str:
    """Long work."""
    return f"{TASKS}{task_id:016x}"


def join_token(digest_hex: str) -> str:
    """An unspent join token, by its SHA-256."""
    return f"{JOIN_TOKENS}{digest_hex}"


def wanted(node_hex: str) -> str:
    """The devices that one node shall serve; not below ``/node/``, whose values are all nodes."""
    return f"{WANTED}{node_hex}"


def maintenance(node_hex: str) -> str:
    """That somebody works on a node; not below ``/node/``, whose values are all nodes."""
    return f"{MAINTENANCE}{node_hex}"


def scrub(drive_id: int) -> str:
    """How the last scrub of a drive ended; not below ``/drive/``, whose values are all drives."""
    return f"{SCRUBS}{drive_id:08x}"


def compare(pool_id: int) -> str:
    """How the last comparison of a pool's copies ended."""
    return f"{COMPARES}{pool_id:04x}"


def event(second: int, tail: str) -> str:
    """Something that happened; sorted by time for the next thirty thousand years."""
    return f"{EVENTS}{second:012d}{tail}"


def device(digest_hex: str) -> str:
    """Index from a device that moves between machines to the one node that may serve it."""
    return name("device", digest_hex)


def id_counter(kind: str) -> str:
    """Next free number of a kind."""
    return f"/ids/{kind}"
